"""Files shipped beside the code: pins, docker-compose.yml, docs. ``python -m tests.test_packaging`` renews the settings table."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from docs.reference import has_options
from gfl_lab import naming
from gfl_lab.cli.main import _COMMANDS, cli
from gfl_lab.integrity.trial_check import CHECKED
from gfl_lab.orchestrate.ray_cluster import prepare_environment
from gfl_lab.spec.file_models import ExperimentFile, Profile
from gfl_lab.spec.files import find_profile, load_experiment, load_profile
from tests.support.nodes import why_not

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU_OVERRIDE = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("gfl-lab:")}
PIN = re.compile(r"([a-z0-9][a-z0-9-]*)==([0-9][0-9a-z.]*)")


def pins(lines: list[str]) -> dict[str, str]:
    """{package: version} of lines that must all be exact pins."""
    found = [(PIN.fullmatch(line), line) for line in lines]
    assert not [line for match, line in found if match is None], "only `name==version` is a pin"
    names = [match[1] for match, _ in found if match]
    assert len(names) == len(set(names)), "a package is pinned twice"
    return {match[1]: match[2] for match, _ in found if match}


def requirements() -> dict[str, str]:
    """The pins of requirements.txt."""
    return pins([line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")])


# --- pins -----------------------------------------------------------------------------------------


def test_the_two_lists_of_pins_are_the_same() -> None:
    assert requirements() == pins(PYPROJECT["tool"]["uv"]["constraint-dependencies"])


def test_every_direct_dependency_is_pinned() -> None:
    direct = PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]
    names = {re.split(r"[\[=<>; ]", line)[0] for line in direct}
    assert names <= requirements().keys()


def test_every_pin_lies_in_the_range_that_the_package_asks_for() -> None:
    from packaging.requirements import Requirement

    extras = PYPROJECT["project"]["optional-dependencies"].values()
    asked = [Requirement(line) for line in PYPROJECT["project"]["dependencies"] + [line for extra in extras for line in extra]]
    assert all(need.specifier for need in asked), "the package asks for ranges"
    assert not [f"{need}" for need in asked if requirements()[need.name] not in need.specifier]


def test_every_library_that_is_imported_is_asked_for() -> None:
    named = {
        re.split(r"[\[=<>; ]", line)[0]
        for line in PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["server"]
    }
    distributions = importlib.metadata.packages_distributions()
    with_mlflow = {"sqlalchemy", "alembic"}  # its own database, which we read
    missing = {}
    for path in [*(ROOT / "gfl_lab").rglob("*.py"), *(ROOT / "dashboard").rglob("*.py")]:
        for name in re.findall(r"^\s*(?:import|from) (\w+)(?:[\w.]*)(?: import|$| as)", path.read_text(), re.MULTILINE):
            owners = {owner.lower().replace("_", "-") for owner in distributions.get(name, [])}
            if name not in sys.stdlib_module_names | with_mlflow | {"gfl_lab", "dashboard"} and not owners & named:
                missing[name] = str(path.relative_to(ROOT))
    assert not missing


# --- one version, licence, citation ---------------------------------------------------------------


def test_there_is_one_version() -> None:
    from gfl_lab import __version__

    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "gfl_lab/__init__.py" and "version" not in PYPROJECT["project"]
    assert importlib.metadata.version("gfl-lab") == __version__
    images = {service["image"] for service in SERVICES.values() if service["image"].startswith("gfl-lab:")}
    images |= set(re.findall(r"image: (gfl-lab:\S+)", (ROOT / "deploy" / "kuberay.yaml").read_text()))
    assert images == {f"gfl-lab:{__version__}"}
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == __version__
    releases = re.findall(r"^## \[([\d.]+)\] - (unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0][0] == __version__ and all(date != "unreleased" for _, date in releases[1:])
    for name in re.findall(r"gfl_lab-([\d.]+)-py3", (DOCS / "installation.md").read_text()):
        assert name == __version__


def test_the_licence_is_the_same_everywhere() -> None:
    assert PYPROJECT["project"]["license"] == "Apache-2.0" == yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert all((ROOT / name).is_file() for name in PYPROJECT["project"]["license-files"])
    assert (ROOT / "gfl_lab" / "py.typed").is_file()


def test_what_is_installed_is_what_is_pinned() -> None:
    wrong = {}
    for name, version in requirements().items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of the other Python version
        if installed != version:
            wrong[name] = (installed, version)
    assert not wrong


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_everything_that_our_dependencies_want_is_pinned(python: str) -> None:
    from packaging.requirements import Requirement

    known = requirements()
    environment = {"extra": "", "python_version": python, "python_full_version": f"{python}.0"}
    missing = set()
    for name in known:
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, wanted):
            needed = requirement.name.lower().replace("_", "-").replace(".", "-")
            if (requirement.marker is None or requirement.marker.evaluate(environment)) and needed not in known:
                missing.add(needed)
    assert missing <= {"opencv-python"}  # replaced by the headless build, docs/decisions/0002


def test_opencv_is_the_headless_build() -> None:
    assert importlib.metadata.version("opencv-python-headless") == requirements()["opencv-python-headless"]
    for other in ("opencv-python", "opencv-contrib-python"):
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(other)


# --- tracked files --------------------------------------------------------------------------------

# Written in parts, so that this file does not name them either.
HOSTS = tuple(
    ".".join(parts.split())
    for parts in (
        "pypi org",
        "pythonhosted org",
        "npmjs org",
        "npmjs com",
        "anaconda org",
        "download pytorch org",
        "docker io",
        "ghcr io",
        "quay io",
    )
)
INDEXES = re.compile(r"--(extra-)?index-url|--find-links|^\s*index-url\s*=|^\[\[tool\.uv\.index\]\]", re.MULTILINE)
MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|root)/")


def tracked() -> list[Path]:
    """Files that git has or would take."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_registry_or_a_folder_of_this_machine() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        name = path.relative_to(ROOT)
        found += [f"{name}: {host}" for host in HOSTS if host in text]
        found += [f"{name}: {match[0]}" for match in MACHINE_PATHS.finditer(text)]
        if path != Path(__file__):
            found += [f"{name}: {match[0]}" for match in INDEXES.finditer(text)]
    assert not found


def test_no_file_is_large_and_no_lock_file_is_kept() -> None:
    files = tracked()
    assert not [f"{path.relative_to(ROOT)}: {path.stat().st_size}" for path in files if path.stat().st_size > 1_000_000]
    assert "uv.lock" not in {path.name for path in files}
    assert ".env" not in {path.name for path in files}


# --- docker-compose.yml and Dockerfile --------------------------------------------------------------


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.gpu.yml"])
def test_compose_files_keep_the_schema(name: str) -> None:
    """The Compose specification's own schema, which check-jsonschema ships."""
    import check_jsonschema
    import jsonschema

    schema = json.loads((Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(yaml.safe_load((ROOT / name).read_text()))] == []


def test_the_services() -> None:
    assert set(SERVICES) == {"postgres", "s3-bucket", "s3", "mlflow", "ray-head", "ray-worker", "dashboard"}
    assert "container_name" not in SERVICES["ray-worker"] and "ports" not in SERVICES["ray-worker"], "else it cannot be scaled"
    for service in SERVICES.values():  # the schema does not look at what a name stands for
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()
        assert set(service.get("networks", [])) <= COMPOSE["networks"].keys()
        assert {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith(".")} <= COMPOSE["volumes"].keys()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_closed_to_the_network_and_not_root(name: str) -> None:
    service = SERVICES[name]
    for port in service.get("ports", []):
        assert isinstance(port, str) and re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    assert service.get("network_mode") in (None, "none") and not service.get("privileged")
    user = str(service["user"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"] and service["read_only"] is True
    assert re.fullmatch(r"[a-z/-]+:v?\d+(\.\d+)+[\w.-]*", service["image"]), "a version, not a moving tag"
    if name == "s3-bucket":  # runs once
        assert service["restart"] == "no" and SERVICES["s3"]["depends_on"][name]["condition"] == "service_completed_successfully"
        return
    check = service["healthcheck"]
    assert check["test"][0] == "CMD" and {"interval", "timeout", "retries"} <= check.keys()
    for other in service.get("depends_on", {}):
        assert other == "s3-bucket" or service["depends_on"][other]["condition"] == "service_healthy"


def test_only_mlflow_reaches_the_database_and_the_storage() -> None:
    assert COMPOSE["networks"]["storage"]["internal"] is True
    assert {name for name, service in SERVICES.items() if "storage" in service.get("networks", [])} == {"postgres", "s3", "mlflow"}
    assert SERVICES["postgres"]["networks"] == SERVICES["s3"]["networks"] == ["storage"]
    assert "ports" not in SERVICES["postgres"] and "ports" not in SERVICES["s3"]


@pytest.mark.parametrize("name", sorted(OURS - {"s3-bucket"}))
def test_a_health_check_is_valid_python(name: str) -> None:
    program, flag, code = SERVICES[name]["healthcheck"]["test"][1:]
    assert program == "python" and flag in ("-c", "-m")
    if flag == "-c":
        compile(code, name, "exec")
    else:
        assert importlib.util.find_spec(code)


def test_one_service_builds_the_image_and_the_others_wait_for_it() -> None:
    image = SERVICES["s3-bucket"]["image"]
    assert [name for name, service in SERVICES.items() if "build" in service] == ["s3-bucket"]
    for name, service in SERVICES.items():
        if service["image"] != image or name == "s3-bucket":
            continue
        assert service["pull_policy"] == "never"
        waits, seen = set(service["depends_on"]), set()
        while waits - seen:
            seen |= waits
            waits = {other for one in waits for other in SERVICES[one].get("depends_on", {})}
        assert "s3-bucket" in seen, f"{name} may start before its image is built"


def instructions() -> list[tuple[str, list[str]]]:
    """Each instruction of the Dockerfile with its words."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(keyword, shlex.split(rest)) for keyword, rest in split]


def copied() -> dict[str, list[str]]:
    """The options of the COPY that brings each source into the image."""
    copies = [words for keyword, words in instructions() if keyword == "COPY"]
    return {
        word: [option for option in words if option.startswith("--")]
        for words in copies
        for word in words[:-1]
        if not word.startswith("--")
    }


def test_user_1000_reads_what_is_copied_whatever_the_umask_of_the_checkout() -> None:
    """Root's pip alone reads requirements.txt."""
    assert {source for source, options in copied().items() if "--chown=lab:lab" not in options} == {"requirements.txt"}


def test_streamlit_is_told_its_address() -> None:
    """Else it asks for the machine's outer one, at a server in the internet."""
    from gfl_lab.cli import dashboard

    option = "--browser.serverAddress=localhost"
    assert option in SERVICES["dashboard"]["command"] and option in Path(dashboard.__file__).read_text()
    assert tomllib.loads((ROOT / "dashboard" / ".streamlit" / "config.toml").read_text())["browser"]["serverAddress"] == "localhost"


ASKED = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        target = arguments[1] if event == "socket.connect" else arguments[:1]
        if isinstance(target, tuple):
            with open(os.environ["ASKED"], "a") as log:
                log.write(f"{target[0]}\\n")
sys.addaudithook(note)
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_the_dashboard_of_the_container_asks_no_other_machine(tmp_path: Path) -> None:
    """The command of the service, in a network namespace of its own: it listens on every address there."""
    (tmp_path / "sitecustomize.py").write_text(ASKED)
    command = [str(ROOT / part.removeprefix("/app/")) if part.startswith("/app/") else part for part in SERVICES["dashboard"]["command"]]
    command[0:1] = [sys.executable, "-m", "streamlit"]
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "ASKED": str(tmp_path / "asked"),
        "GFL_LAB_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    script = 'ip link set lo up; exec "$@"'
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", script, "sh", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "URL:" in line:
                break
        assert any("localhost:8501" in line for line in lines), lines
    finally:
        process.terminate()
        process.communicate(timeout=60)
    asked = (tmp_path / "asked").read_text().split() if (tmp_path / "asked").exists() else []
    assert set(asked) <= {"localhost", "127.0.0.1", "0.0.0.0", "::1", "::"}, asked


def test_there_is_no_literal_secret() -> None:
    secret = re.compile(r"token|password|passwd|secret|key|credential", re.IGNORECASE)
    given = r"\$\{[A-Z0-9_]+:\?[^}]+\}"
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if secret.search(key) and key != "RAY_AUTH_MODE":
                assert re.fullmatch(given, value), f"{key} must come from .env and have no default"
            if match := re.match(r"\w+(\+\w+)?://[^/@]*@", value):
                assert re.search(f":{given}@$", match[0]), f"the password in {key} must come from .env"
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert {name for name, value in example.items() if not value} == {
        "RAY_AUTH_TOKEN",
        "POSTGRES_PASSWORD",
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
    }
    files = (ROOT / name for name in ("docker-compose.yml", "docker-compose.gpu.yml"))
    wanted = {name for file in files for name in re.findall(r"\$\{([A-Z0-9_]+)", file.read_text())}
    assert wanted == set(example), "what compose reads stands in .env.example"


def test_ray_wants_a_token_and_nothing_phones_home() -> None:
    for name in ("ray-head", "ray-worker"):
        environment, command = SERVICES[name]["environment"], SERVICES[name]["command"]
        assert environment["RAY_AUTH_MODE"] == "token" and environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0" and "--disable-usage-stats" in command
    assert "--include-dashboard=false" in SERVICES["ray-head"]["command"]
    for name in ("mlflow", "ray-head", "ray-worker"):
        assert SERVICES[name]["environment"]["MLFLOW_DISABLE_TELEMETRY"] == "true"
    mlflow = SERVICES["mlflow"]
    assert "--workers=1" in mlflow["command"] and mlflow["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    allowed = next(part for part in mlflow["command"] if part.startswith("--allowed-hosts="))
    assert "mlflow:5000" in allowed and "*" not in allowed and "--disable-security-middleware" not in mlflow["command"]
    assert "gatherUsageStats = false" in (ROOT / "dashboard" / ".streamlit" / "config.toml").read_text()


def test_whoever_runs_or_shows_trials_sees_them_at_the_same_place() -> None:
    of_the_lab = [SERVICES[name] for name in ("ray-head", "ray-worker", "dashboard")]
    assert [[v.split(":")[1] for v in service["volumes"] if v.startswith("lab:")] for service in of_the_lab] == [["/srv/gfl-lab"]] * 3
    assert {service["environment"]["GFL_LAB_HOME"] for service in of_the_lab} == {"/srv/gfl-lab/runs"}
    assert "lab:/srv/gfl-lab:ro" in SERVICES["dashboard"]["volumes"]
    making = next(words for keyword, words in instructions() if keyword == "RUN" and "install" in words and "-d" in words)
    owned = set(making[making.index("-d") :])
    volumes = [volume for name in OURS for volume in SERVICES[name].get("volumes", []) if not volume.startswith(".")]
    mounted = {volume.split(":")[1] for volume in volumes}
    assert {"-o", "lab", "/srv/gfl-lab/runs", "/srv/s3/mlflow"} | mounted <= owned, "an empty volume takes its owner from the image"


def test_the_override_for_gpus_changes_the_workers_alone() -> None:
    assert GPU_OVERRIDE.keys() == {"services"} and GPU_OVERRIDE["services"].keys() == {"ray-worker"}
    worker = GPU_OVERRIDE["services"]["ray-worker"]
    assert [part for part in worker["command"] if not part.startswith("--num-gpus=")] == SERVICES["ray-worker"]["command"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"] and f"--num-gpus={device['count']}" in worker["command"]


@pytest.mark.slow
def test_mlflows_command_is_one_that_mlflow_takes() -> None:
    """Options, not effects: those are seen in tests/test_topology.py."""
    from mlflow.cli import server

    service = SERVICES["mlflow"]
    assert service["command"][:2] == ["mlflow", "server"]
    values = server.make_context("server", list(service["command"][2:])).params
    assert int(values["workers"]) == 1 and values["serve_artifacts"] and values["artifacts_destination"] == "s3://mlflow"
    assert service["environment"]["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://"), "SQLAlchemy's default is another driver"


def test_the_cluster_for_kuberay_is_closed_and_asks_for_its_token() -> None:
    """By our own rules alone: KubeRay's schema is not at hand."""
    claim, cluster = yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text())
    assert claim["kind"] == "PersistentVolumeClaim" and claim["spec"]["accessModes"] == ["ReadWriteMany"]
    spec = cluster["spec"]
    assert cluster["kind"] == "RayCluster" and spec["rayVersion"] == requirements()["ray"]
    assert spec["authOptions"]["mode"] == "token" and spec["authOptions"]["secretName"]
    assert (
        spec["headGroupSpec"]["rayStartParams"]["include-dashboard"] == "false"
        and spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    )
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] == 1000
        assert [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]] == [claim["metadata"]["name"]]
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["image"] == SERVICES["ray-head"]["image"] and container["livenessProbe"]
        assert container["readinessProbe"]["exec"]["command"] == SERVICES["ray-worker"]["healthcheck"]["test"][1:]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/srv/gfl-lab"]
        assert not [entry["name"] for entry in container["env"] if re.search("TOKEN|PASSWORD|KEY", entry["name"])]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_rays_command_is_one_that_ray_takes(name: str) -> None:
    prepare_environment(None)  # Ray reads it when it is imported; a later test of this process may connect to Ray
    from ray.scripts.scripts import start

    command = SERVICES[name]["command"]
    assert command[:2] == ["ray", "start"]
    arguments = [re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", part) for part in command[2:]]
    values = start.make_context("start", arguments).params
    assert values["block"] and values["disable_usage_stats"]
    assert values["head"] == (name == "ray-head")


def test_the_image_is_built_from_pins() -> None:
    (base,) = (words[0] for keyword, words in instructions() if keyword == "FROM")
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(base.removeprefix("python:").split("-")[0])
    installs = [words[2:] for keyword, words in instructions() if keyword == "RUN" and words[:2] == ["pip", "install"]]
    tools: dict[str, str] = {}
    for words in installs:
        assert "--no-deps" in words, "pip chooses no version"
        requirements = [word for word in words if not word.startswith("-")]
        if "-r" in words:
            assert requirements == ["requirements.txt"]
        elif "-e" in words:
            assert requirements == ["."] and "--no-build-isolation" in words
        else:
            tools |= pins(requirements)
            assert len(pins(requirements)) == len(requirements), "each with its version"
    build = pins(PYPROJECT["build-system"]["requires"]) | pins(PYPROJECT["tool"]["uv"]["build-constraint-dependencies"])
    assert build.items() <= tools.items() and tools.keys() <= build.keys() | {"editables"}


def test_the_image_runs_as_a_user_and_holds_what_dockerignore_lets_through() -> None:
    last = [keyword for keyword, _ in instructions()]
    (user,) = (words for keyword, words in instructions() if keyword == "USER")
    assert user == ["1000:1000"] and last.index("USER") > max(n for n, keyword in enumerate(last) if keyword == "RUN")
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied().keys() == kept and all((ROOT / name).exists() for name in kept)


# --- docs -----------------------------------------------------------------------------------------


def commands() -> list[tuple[str, click.Command]]:
    """Every command with its full name, and what stands under it."""
    context = click.Context(cli)
    found = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {inner}", sub) for inner, sub in command.commands.items()]
    return found


@pytest.mark.parametrize("name,command", commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_has_help_and_a_section_in_the_docs(name: str, command: click.Command) -> None:
    text = (DOCS / "command-line.md").read_text()
    assert (command.help or "").strip()
    section = re.search(rf"^#+ `gfl-lab {name}\b[^\n]*\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"no section on gfl-lab {name}"
    assert not has_options(command) or f"<!-- generated: options {name} -->" in section[1]


def test_every_command_in_the_docs_exists() -> None:
    known = {name for name, _ in commands()}
    for path in [DOCS / "command-line.md", ROOT / "README.md", *DOCS.glob("*.md")]:
        for name in re.findall(r"`gfl-lab ([a-z][a-z-]*)", path.read_text()):
            assert name in known, f"{path.name}: gfl-lab {name}"
    assert {name.split()[0] for name in known} == set(_COMMANDS)


def test_every_file_of_a_run_tree_stands_in_its_document() -> None:
    text = (DOCS / "run-directory.md").read_text()
    files = [
        naming.MANIFEST, naming.CONFIG, naming.METRICS_FILE, naming.RESULT, naming.LOG, naming.EVAL_RECORDS, naming.DISTRIBUTIONS, naming.HISTORY,
        naming.LAST_CHECKPOINT, naming.PREVIOUS_CHECKPOINT, naming.ACCUMULATION, naming.RESERVE, naming.REPAIR, naming.LEASE, naming.STOP_REQUEST,
        naming.PLAN, naming.LOCK, naming.NEW_LOCK, naming.SEARCH, naming.COST, naming.MLFLOW_DB, CHECKED,
    ]  # fmt: skip
    assert [name for name in files if f"`{name}`" not in text and f"/{name}" not in text and f"  {name} " not in text] == []


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a Markdown file's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


MARKDOWN = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists() and linked.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(linked), target


@pytest.mark.parametrize("path", [*DOCS.glob("*.md"), ROOT / "README.md"], ids=lambda path: path.name)
def test_files_that_documents_name_exist(path: Path) -> None:
    named = re.findall(r"`((?:gfl_lab|dashboard|tests|benchmarks|docs|experiments|deploy)/[\w./-]+\.(?:py|sh|ya?ml|md))`", path.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_document_is_in_the_index() -> None:
    index, decisions = (DOCS / "index.md").read_text(), (DOCS / "decisions" / "index.md").read_text()
    for path in DOCS.glob("*.md"):
        assert path.name == "index.md" or f"({path.name})" in index, path.name
    assert "(decisions/index.md)" in index
    for path in (DOCS / "decisions").glob("*.md"):
        assert path.name == "index.md" or f"({path.name})" in decisions, path.name


def examples() -> list[tuple[str, dict[str, Any], str]]:
    """(file:line, value, text) of each ```yaml block of docs/experiment-files.md and README.md."""
    found = []
    for path in (DOCS / "experiment-files.md", ROOT / "README.md"):
        text = path.read_text()
        for block in re.finditer(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found.append((f"{path.name}:{text[: block.start()].count(chr(10)) + 1}", yaml.safe_load(block[1]), block[1]))
    return found


@pytest.mark.parametrize("value,text", [(value, text) for _, value, text in examples()], ids=[place for place, _, _ in examples()])
def test_an_example_in_the_docs_is_valid(value: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / f"{value.get('name', 'part')}.yaml"
    if "data" in value and "name" in value:
        path.write_text(text)
        load_profile(path)
        return
    if "name" not in value:  # a part of an experiment: it is completed with what every experiment needs
        text = "name: part\nprofile: desk\n" + ("" if {"axes", "variants"} & value.keys() else "axes: {dfl: [false, true]}\n") + text
    path.write_text(text)
    experiment, _ = load_experiment(path)
    load_profile(find_profile(experiment.profile, [ROOT / "experiments" / "profiles"]))


def test_the_examples_are_there_and_every_key_is_told() -> None:
    values = [value for _, value, _ in examples()]
    assert sum("name" in value and ("axes" in value or "variants" in value) for value in values) >= 2
    assert any("data" in value for value in values)
    text = (DOCS / "experiment-files.md").read_text()
    for model in (ExperimentFile, Profile):
        for key in model.model_fields:
            assert f"| `{key}` |" in text, f"{model.__name__}.{key}"
