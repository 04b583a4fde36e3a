"""manifest.json: the specification of a trial, and the paths of its data on this machine; written before it starts."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfl_lab import naming
from gfl_lab.errors import StoreError
from gfl_lab.records.files import JsonObject, damaged, integer_of, object_of, read_json, text_of, write_record
from gfl_lab.spec import renames

if TYPE_CHECKING:  # the command line starts without pydantic
    from gfl_lab.spec.imported import ImportedSpec
    from gfl_lab.spec.trial import ComponentFile, DataSpec, TrialSpec

_WEIGHTS = "init_weights"
"""The setting for initial weights."""
_NO_FILE = ("random", "pretrained")
"""Its values that name no file."""


@dataclass(frozen=True)
class DataPaths:
    """Paths of a trial's images and annotations, absolute, on the machine that wrote the manifest.

    Attributes:
        train_annotations, val_annotations: Annotation files of this machine, absolute paths. Imported trials have the second one.
        train_images, val_images: Image folders of this machine, absolute paths. Empty for imported trials.
    """

    train_annotations: str
    val_annotations: str
    train_images: str
    val_images: str

    def to_json(self) -> dict[str, str]:
        """Return the paths by name."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, found: object) -> DataPaths:
        """Return the paths in a JSON object. Raises ValueError if one is missing."""
        given = object_of(found)
        paths = {} if given is None else {name: value for name in cls.__dataclass_fields__ if isinstance(value := given.get(name), str)}
        if len(paths) != len(cls.__dataclass_fields__):
            raise ValueError("has no paths of the data")
        return cls(**paths)


@dataclass(frozen=True)
class Manifest:
    """The manifest of one trial.

    Each part is parsed when it is read: a damaged part does not hide the others, and reading thousands of manifests for two
    keys does not validate a hundred settings of each.

    Attributes:
        file: the manifest, for messages.
        content: as it was read.
    """

    file: Path
    content: JsonObject

    @property
    def trial(self) -> str:
        """Id of the trial."""
        return text_of(self.content.get("trial"))

    @property
    def created(self) -> str:
        """ISO time at which the file was written."""
        return text_of(self.content.get("created"))

    @property
    def paths(self) -> DataPaths:
        """Paths of the data. Raises StoreError."""
        try:
            return DataPaths.from_json(self.content.get("paths"))
        except ValueError as error:
            raise damaged(self.file, str(error)) from None

    @property
    def is_imported(self) -> bool:
        """Return True if the trial holds detections of another project: nothing was trained."""
        return "imported" in (object_of(self.content.get("spec")) or {})

    @property
    def imported(self) -> ImportedSpec:
        """Specification of an imported trial, validated. Raises StoreError: it is damaged, of another version, or no import."""
        from pydantic import ValidationError

        from gfl_lab.spec.imported import ImportedSpec

        try:
            return ImportedSpec.model_validate({**(object_of(self._spec().get("imported")) or {}), "data": self._spec().get("data")})
        except ValidationError:
            raise damaged(self.file, "has no valid specification of imported detections") from None

    @property
    def spec(self) -> TrialSpec:
        """Specification of the trial, validated. Raises StoreError: it is damaged, of another version, or of an imported trial."""
        from pydantic import ValidationError

        from gfl_lab.spec.trial import TrialSpec

        if self.is_imported:
            raise StoreError(f"{self.file} is of imported detections, which were not trained here")
        try:
            return TrialSpec.model_validate(self.content.get("spec"))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise StoreError(f"{self.file} is damaged, or another version's: {where}: {first['msg']}") from None

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by their present names, not validated: those of an older version may lack some. Raises StoreError."""
        try:
            return renames.current(self._object("settings"))
        except ValueError as error:
            raise damaged(self.file, f"has a damaged specification: {error}") from None

    @property
    def data(self) -> DataSpec:
        """The data set. Raises StoreError."""
        from pydantic import ValidationError

        from gfl_lab.spec.trial import DataSpec

        try:
            return DataSpec.model_validate(self._object("data"))
        except ValidationError:
            raise damaged(self.file, "has no valid data of the trial") from None

    @property
    def seed(self) -> int:
        """The trial's seed. Raises StoreError."""
        return self._integer("seed")

    @property
    def code(self) -> int:
        """Version of the training code. Raises StoreError."""
        return self._integer("code")

    @property
    def weights_digest(self) -> str:
        """Digest of the initial weights; empty if there are none. Raises StoreError."""
        return text_of(self._spec().get("weights_digest"))

    @property
    def needs(self) -> dict[str, str]:
        """Ids of the trials whose weights it needs, by the setting that describes each. Raises StoreError."""
        found = object_of(self._spec().get("needs") or {})
        if found is None:
            raise damaged(self.file, "has a damaged list of the trials that it needs")
        return {role: text_of(trial) for role, trial in found.items()}

    @property
    def weights_file(self) -> Path | None:
        """The file of initial weights; None if the setting names no file. Raises StoreError."""
        weights = text_of(self.settings.get(_WEIGHTS, "random"))
        return None if weights in _NO_FILE else Path(weights)

    @property
    def components(self) -> tuple[ComponentFile, ...]:
        """The user's files that the trial uses. Raises StoreError."""
        from pydantic import TypeAdapter, ValidationError

        from gfl_lab.spec.trial import ComponentFile

        try:
            return TypeAdapter(tuple[ComponentFile, ...]).validate_python(self._spec().get("components") or ())
        except ValidationError:
            raise damaged(self.file, "has a damaged list of your files") from None

    @property
    def component_files(self) -> tuple[Path, ...]:
        """The copies of the user's files, beside the manifest. Raises StoreError."""
        return tuple(self.file.parent / naming.COMPONENTS_DIR / Path(each.name).name for each in self.components)

    def moved(self, paths: DataPaths, weights: Path | None) -> Manifest:
        """Return the manifest with the paths of another machine. The trial's id holds the content of files, not their paths."""
        settings = self.settings
        if weights is not None:
            settings[_WEIGHTS] = str(weights)
        spec = {**self._spec(), "settings": settings}
        return Manifest(self.file, {**self.content, "spec": spec, "paths": {**paths.to_json()}})

    def _spec(self) -> JsonObject:
        found = object_of(self.content.get("spec"))
        if found is None:
            raise damaged(self.file, "has no specification of the trial")
        return found

    def _object(self, key: str) -> JsonObject:
        found = object_of(self._spec().get(key))
        if found is None:
            raise damaged(self.file, f"has no {key} of the trial")
        return found

    def _integer(self, key: str) -> int:
        found = integer_of(self._spec().get(key))
        if found is None:
            raise damaged(self.file, f"has no {key} of the trial")
        return found


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises StoreError if it is missing or is no JSON object, FormatError if it is of another format."""
    return Manifest(path, read_json(path))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest."""
    write_record(path, manifest.content)


def new_manifest(path: Path, spec: TrialSpec, paths: DataPaths) -> Manifest:
    """Return the manifest of a trial that is to run, created now."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    content: JsonObject = {"trial": spec.id, "spec": spec.model_dump(mode="json"), "paths": {**paths.to_json()}, "created": created}
    return Manifest(path, content)


def imported_manifest(path: Path, spec: ImportedSpec, seed: int, annotations: str) -> Manifest:
    """Return the manifest of imported detections, created now.

    Args:
        annotations: absolute path of the annotation file. Images and training data have no path: nothing of them is known.
    """
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    own = spec.model_dump(mode="json", exclude={"data"})
    described: dict[str, Any] = {
        "settings": {},
        "data": spec.data.model_dump(mode="json"),
        "seed": seed,
        "code": spec.code,
        "imported": own,
    }
    paths = DataPaths("", annotations, "", "")
    return Manifest(path, {"trial": spec.id, "spec": described, "paths": {**paths.to_json()}, "created": created})
