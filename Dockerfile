# The image of gfl-lab, MLflow, Ray and the dashboard in docker-compose.yml. requirements.txt holds what a shared MLflow server
# needs besides (boto3, psycopg2-binary).
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# An empty volume takes its owner, and its first folders, from these when it is first mounted.
RUN useradd --uid 1000 --create-home lab \
    && install -d -o lab -g lab /srv/gfl-lab /srv/gfl-lab/runs /srv/gfl-lab/data /srv/s3 /srv/s3/mlflow

WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-deps -r requirements.txt

# The build tools are pinned too (pyproject.toml, build-system and build-constraint-dependencies), so no build isolation.
# Editable: docker-compose.yml mounts the checkout's experiments at /app/experiments, where a checkout has them.
RUN pip install --no-deps hatchling==1.33.0 packaging==26.3 pathspec==1.1.1 pluggy==1.7.0 tomlkit==0.15.2 trove-classifiers==2026.9.21.13 editables==0.6
# With the owner that runs them: a checkout under umask 077 has files that nobody else may read.
COPY --chown=lab:lab pyproject.toml README.md LICENSE NOTICE ./
COPY --chown=lab:lab gfl_lab ./gfl_lab
COPY --chown=lab:lab dashboard ./dashboard
COPY --chown=lab:lab experiments ./experiments
RUN pip install --no-deps --no-build-isolation -e .

USER 1000:1000
CMD ["gfl-lab", "--help"]
