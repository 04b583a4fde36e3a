#!/usr/bin/env bash
# Make a checkout ready for a GPU machine that has Python 3.12 and torch but no network: collect what it lacks in folders that git ignores.
#
#   bash benchmarks/gpu/prepare.sh [speed|all]      in the root of the checkout; speed leaves out Ray and MLflow; default all
#
#   .whl        wheels for the benchmarks and for training without Ray and MLflow
#   .whl2 .whl3 wheels of MLflow and of Ray
#   .gpu-data   bccd and coco_people, copied from the folder SHARED_DATA
set -euo pipefail
what=${1:-all} data=${SHARED_DATA:-}
[ -f requirements.txt ] && [ -d gfl_lab ] || { echo "run it in the root of a checkout of gfl-lab"; exit 2; }

# Packages that a machine with torch and its usual companions lacks.
FIRST="addict annotated-types cachetools faster-coco-eval mmcv-lite mmdet mmengine platformdirs pycocotools pydantic pydantic-core shapely sqlalchemy termcolor
 terminaltables typing-inspection yapf"
REST="alembic blinker cffi colorlog cryptography databricks-sdk docker fastapi flask flask-cors gitdb gitpython google-auth graphene
 graphql-core graphql-relay gunicorn huey importlib-metadata itsdangerous jsonschema jsonschema-specifications mako mlflow mlflow-skinny
 mlflow-tracing opentelemetry-api opentelemetry-proto opentelemetry-sdk opentelemetry-semantic-conventions optuna prettytable pyasn1
 pyasn1-modules pycparser python-dotenv python-multipart referencing rpds-py skops smmap sniffio sqlparse starlette tensorboardx
 uvicorn watchdog wcwidth websockets"

fetch() { # FOLDER NAME...: download wheels of the pinned versions, and build those of pure Python that have none
    local folder=$1 name pin; shift
    mkdir -p "$folder"
    local pins=() platforms=()
    for name in "$@"; do
        pin=$(grep -iE "^${name}==" requirements.txt) || { echo "no pin for $name in requirements.txt"; exit 1; }
        pins+=("$pin")
    done
    for n in manylinux_2_39 manylinux_2_35 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
        platforms+=(--platform "${n}_x86_64")
    done
    local how=(--no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}")
    rm -f "$folder"/*.whl
    if ! python3 -m pip download -q "${how[@]}" -d "$folder" "${pins[@]}" 2>"$folder/.said"; then
        for pin in "${pins[@]}"; do
            python3 -m pip download -q "${how[@]}" -d "$folder" "$pin" 2>>"$folder/.said" && continue
            echo "no wheel of $pin: building it here"
            python3 -m pip wheel -q --no-deps -w "$folder" "$pin" 2>>"$folder/.said" || { tail -5 "$folder/.said"; exit 1; }
            ls "$folder" | grep -i "^$(echo "${pin%%==*}" | tr '-' '_')-" | grep -q -- '-any.whl' || { echo "$pin needs a compiler for Python 3.12"; exit 1; }
        done
    fi
    rm -f "$folder/.said"
}

slim() { # WHEEL PREFIX...: remove files under these prefixes from a wheel
    python3 - "$@" <<'PY'
import sys, zipfile
path, *gone = sys.argv[1:]
kept, out = path + ".new", None
with zipfile.ZipFile(path) as old, zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
    for entry in old.infolist():
        if any(entry.filename.startswith(prefix) for prefix in gone):
            continue
        content = old.read(entry)
        if entry.filename.endswith(".dist-info/RECORD"):
            content = b"".join(line for line in content.splitlines(True) if not line.decode().lstrip('"').startswith(tuple(gone)))
        new.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
import os
os.replace(kept, path)
PY
}

fetch .whl $FIRST
if [ "$what" = all ]; then
    fetch .whl2 $REST
    fetch .whl3 ray
    slim .whl2/mlflow-3*.whl mlflow/server/js/ mlflow/rfunc/
    slim .whl3/ray-*.whl ray/jars/ ray/rllib/ ray/llm/ ray/dashboard/client/build/
fi
mkdir -p .gpu-data
for set in bccd coco_people; do
    if [ -n "$data" ] && [ -d "$data/$set" ]; then
        rm -rf ".gpu-data/$set"; cp -r "$data/$set" ".gpu-data/$set"; chmod -R u+w ".gpu-data/$set"
    else
        echo "note: SHARED_DATA=${data:-} has no $set: loading and Table 3 are left out on the GPU machine"
    fi
done
du -sh --apparent-size .whl .whl2 .whl3 .gpu-data 2>/dev/null || true
