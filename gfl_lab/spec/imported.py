"""One imported trial: detections that another project made, evaluated here. Nothing is trained, so it has no settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from gfl_lab import naming
from gfl_lab.spec.trial import DataSpec

IMPORT_CODE_VERSION = 1
"""Raised whenever a change of our code changes the numbers of imported detections."""


class ImportedSpec(BaseModel):
    """Everything that the numbers of an imported trial depend on: the annotations and the detections, by content.

    The seed, the arm and the name of the file do not count: the same detections are the same trial.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataSpec = Field(description="The data set.")
    detections: str = Field(description="SHA-256 over the detections as they are evaluated, first 16 hex digits.")
    max_dets: int = Field(default=100, description="Detections counted for each image and class.")
    code: int = Field(default=IMPORT_CODE_VERSION, description="Version of the code that evaluates imported detections.")
    file: str = Field(default="", description="Name of the file, for people.")

    @property
    def id(self) -> str:
        """Content hash: 12 hex digits."""
        content = {"data": self.data.digest, "detections": self.detections, "max_dets": self.max_dets, "code": self.code}
        return naming.digest({"imported": content})
