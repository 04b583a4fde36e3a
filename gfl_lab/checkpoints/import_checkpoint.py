"""Reading other projects' weight files safely, and writing them again under our names (checkpoints/convert.py).

No object of a file's own is ever made: torch files are read with ``weights_only=True``, Paddle's pickles by an unpickler
that reads numpy arrays and nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfl_lab import naming
from gfl_lab.checkpoints.convert import Converted, convert
from gfl_lab.checkpoints.files import DAMAGE, load_safely
from gfl_lab.errors import InputError, Problem
from gfl_lab.records.files import atomic_path

_NOT_WEIGHTS = "not a tensor"


class _Placeholder:
    """Stands in for an object that some project saves beside its weights: takes whatever it is made of, and is nothing."""

    def __new__(cls, *args: Any) -> _Placeholder:
        return object.__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_BESIDE_WEIGHTS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "argparse.Namespace",
    "pathlib.PosixPath",
)
"""Names in checkpoints of mmengine and training scripts (logs, arguments). They become placeholders: none is looked up or called."""

_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of torch files that are no zip archives (before torch 1.6)."""


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Attributes:
        weights: key to tensor, on the CPU; of a torch file with the versions of its modules (``_metadata``), by which mmdet's
            modules rename keys of former versions. others: entries beside them that are no weights, key to reason.
        meta: what the project that saved them says of them: the entry ``meta`` of a torch file, else empty.
    """

    weights: dict[str, Tensor]
    others: dict[str, str]
    meta: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, which mmdet saves; empty where they are not named."""
        dataset = self.meta.get("dataset_meta")
        for entries in (dataset if isinstance(dataset, dict) else {}, self.meta):
            for key in ("classes", "CLASSES"):
                names = entries.get(key)
                if isinstance(names, (tuple, list)) and names and all(isinstance(name, str) for name in names):
                    return tuple(names)
        return ()


def read_weights(path: Path) -> WeightsFile:
    """Return the weights in a file of torch (``.pth``), Paddle (``.pdparams``) or numpy (``.npz``), recognised by its content.

    In a torch file the entry ``state_dict`` or ``model`` is read, or else the whole.

    Raises:
        InputError: no file, a damaged one, or one with objects other than weights; names them.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_TORCH_LEGACY))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if start[:2] == b"PK":
        content = _read_npz(path) if _is_npz(path) else _read_torch(path)
    elif start == _TORCH_LEGACY:
        content = _read_torch(path)
    elif start[:1] == b"\x80":
        content = _read_paddle(path)
    else:
        raise InputError(f"{path} is no weights file of torch, Paddle or numpy" + ("" if start else ": it is empty"))
    meta = content.get("meta")
    entry = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    weights: OrderedDict[str, Tensor] = OrderedDict()
    if isinstance(versions := getattr(entry, "_metadata", None), dict):
        weights._metadata = versions  # type: ignore[attr-defined]  # torch's own place for them
    others = {}
    for key, value in entry.items():
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
            value = value[1]  # Paddle's (name, array)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            value = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
        if isinstance(key, str) and isinstance(value, Tensor):
            weights[key] = value
        else:
            others[str(key)] = _NOT_WEIGHTS
    return WeightsFile(weights, others, meta if isinstance(meta, dict) else {})


def _read_torch(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals([(_Placeholder, name) for name in _BESIDE_WEIGHTS]):
        try:
            return load_safely(path)
        except InputError as error:
            if strangers := _strangers(path):
                raise InputError(
                    Problem(
                        f"{path} asks for {', '.join(strangers)}, and a weights file is never allowed to run or build such a thing",
                        hint="If you trust the file, load it with its own project and save torch.save({'state_dict': ...}, FILE) again.",
                    )
                ) from None
            raise error from None


def _strangers(path: Path) -> list[str]:
    """Return the objects of a torch zip file that are not read; empty if torch cannot list them."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # only to explain an error that is on its way already
        return []


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # torch's reader reports the error


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a whole file of numpy arrays: {error}") from None


def _array_functions() -> dict[tuple[str, str], Callable[..., Any]]:
    rebuild: Callable[..., Any] = np.array(0).__reduce__()[0]  # type: ignore[assignment]  # numpy's stub: str | Callable
    allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
        ("builtins", "tuple"): tuple,
    }
    for core in ("core", "_core"):
        allowed[f"numpy.{core}.multiarray", "_reconstruct"] = rebuild
    return allowed


def _encode(text: str, encoding: str) -> bytes:
    """Return the bytes of a pickle of protocol 2, which are written as Latin-1 text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, strings and numpy arrays. Any other name is refused before it is looked up."""

    allowed = _array_functions()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise _Stranger(f"{module}.{name}")
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Stranger("an object outside of the file")


class _Stranger(Exception):
    """An object that is no part of a dictionary of arrays."""


def _read_paddle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except _Stranger as error:
        raise InputError(
            Problem(
                f"{path} asks for {error}, and a weights file is never allowed to run or build anything but arrays",
                hint="If you trust the file, load it with its own project and save its arrays with numpy.savez(FILE.npz, **arrays).",
            )
        ) from None
    except (pickle.UnpicklingError, *DAMAGE) as error:
        raise InputError(f"{path} is not a whole file of Paddle's: {error or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, not a dictionary of weights")
    return content


@dataclass(frozen=True)
class Imported:
    """An import that is done.

    Attributes:
        converted: what came of the weights.
        dropped: keys left out and why, entries that are no weights included.
        out: the file written. sha256: of the source file.
    """

    converted: Converted
    dropped: dict[str, str]
    out: Path
    sha256: str


def convert_file(content: WeightsFile, name: str) -> Converted:
    """Return the weights of a file under our names. Raises InputError, which names the file, as ``convert`` does."""
    try:
        return convert(content.weights)
    except InputError as error:
        raise InputError([Problem(p.message, place=p.place or name, hint=p.hint) for p in error.problems]) from None


def import_checkpoint(source: Path, out: Path, *, force: bool = False) -> Imported:
    """Convert a weights file. The result holds ``state_dict`` and ``meta`` (format, kind, source, settings, num_classes, sha256).

    Args:
        out: written atomically. force: also where it exists.

    Raises:
        InputError: ``source`` cannot be read safely, is of no known kind or not whole, or ``out`` exists.
    """
    if out.exists() and (not force or out.resolve() == source.resolve()):
        raise InputError(
            Problem(
                f"{out} exists",
                hint="Give another --out." if out.resolve() == source.resolve() else "Give --force to replace it, or another --out.",
            )
        )
    file_content = read_weights(source)
    converted = convert_file(file_content, str(source))
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    recognised = converted.recognised
    meta = {
        "format": naming.FORMAT_VERSION,
        "kind": recognised.kind,
        "source": recognised.source,
        "settings": recognised.settings,
        "num_classes": recognised.num_classes,
        "sha256": sha256,
    }
    state = {key: value.detach().clone() for key, value in converted.state_dict.items()}  # views would save what they look into
    with atomic_path(out) as temporary:
        try:
            torch.save({"state_dict": state, "meta": meta}, temporary)
        except RuntimeError as error:  # torch's writer hides the system's error
            if "inline_container" not in str(error):
                raise
            raise OSError(errno.ENOSPC, "no space left on device", str(out)) from None
    return Imported(converted, converted.dropped | file_content.others, out, sha256)
