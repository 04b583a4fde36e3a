"""JSON schemas of experiment and profile files, for editors that complete and check YAML.

They are made of the same fields as the files' own check, which finds more: rules between settings, names of files, lines.

    python -m gfl_lab.spec.schema FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gfl_lab import naming
from gfl_lab.spec.file_models import ExperimentFile, Profile
from gfl_lab.spec.settings import Settings

Schema = dict[str, Any]
"""A JSON schema, as pydantic returns it."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SETTINGS: Schema = {"$ref": "#/$defs/Settings"}
_OPTION = r"^cfg_options\."
"""Names of settings that stand for one value of an mmdet config."""


def experiment_schema() -> Schema:
    """Return the schema of an experiment file."""
    schema = _with_settings(ExperimentFile.model_json_schema())
    properties = schema["properties"]
    by_axis = {key: {"$ref": f"#/$defs/Settings/properties/{key}"} for key in Settings.model_fields}
    _closed(properties["axes"], {key: {"type": "array", "items": value} for key, value in by_axis.items()})
    properties["axes"]["patternProperties"] = {_OPTION: {"type": "array"}}
    _closed(properties["when"], dict.fromkeys(by_axis, _SETTINGS))
    properties["when"]["patternProperties"] = {_OPTION: _SETTINGS}
    _closed(schema["$defs"]["SearchSpec"]["properties"]["space"], {key: {"type": ["array", "object"]} for key in by_axis})
    schema["$defs"]["SearchSpec"]["properties"]["space"]["patternProperties"] = {_OPTION: {"type": ["array", "object"]}}
    properties["overrides"] |= _SETTINGS
    properties["variants"]["additionalProperties"] = _SETTINGS
    properties["baseline"]["anyOf"][0] = _SETTINGS
    metrics = list(naming.METRICS)
    schema["$defs"]["TableSpec"]["properties"]["metrics"]["items"] = {"type": "string", "enum": metrics}
    return schema


def profile_schema() -> Schema:
    """Return the schema of a profile file."""
    schema = _with_settings(Profile.model_json_schema())
    schema["properties"]["settings"] |= _SETTINGS
    return schema


SCHEMAS = {"experiment.schema.json": experiment_schema, "profile.schema.json": profile_schema}
"""{file name: function that makes its content}."""


def text_of(schema: Schema) -> str:
    """Return a schema as the text of its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _with_settings(schema: Schema) -> Schema:
    """Return the schema of a file with the settings among its definitions. All are optional: a file gives some of them."""
    settings = Settings.model_json_schema() | {"patternProperties": {_OPTION: {}}}
    return {"$schema": _DIALECT} | schema | {"$defs": schema.get("$defs", {}) | {"Settings": settings}}


def _closed(mapping: Schema, properties: Schema) -> None:
    """Let a mapping have these keys alone."""
    mapping |= {"properties": properties, "additionalProperties": False}


def main(folder: Path) -> None:
    """Write the schemas into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in SCHEMAS.items():
        (folder / name).write_text(text_of(make()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
