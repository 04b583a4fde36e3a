"""The one reader of image files: training, evaluation, the check, `predict` and the pages get the same pixels from it.

OpenCV decodes a file where it can, else Pillow does. Pixels are taken as stored: EXIF orientation is ignored. (The orientation tag
of a TIFF is a part of that format, and both libraries follow it.) Alpha channels are dropped, and only the first frame is read.
Integers of more than 8 bits and floats ("deep" images) are scaled into 0..255: the white level becomes 255.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from gfl_lab.addresses import readable
from gfl_lab.errors import DataError, Problem

MAX_PIXELS = 178_956_970
"""Images with more are refused, as Pillow refuses them: a small file can unfold into many gigabytes."""

_EIGHT_BIT = (b"\xff\xd8", b"GIF8", b"BM", b"RIFF")
"""Files that begin so (JPEG, GIF, BMP, WebP) have 8 bits a channel."""
_PNG, _PNG_DEPTH_AT = b"\x89PNG\r\n\x1a\n", 24
_PNG_END = b"IEND\xaeB`\x82"
_BITS_PER_SAMPLE = 258
_REFUSED_FORMATS = ("EPS",)
"""Pillow starts Ghostscript for these."""
NOT_AN_IMAGE = "it is no image format that can be read"


class ImageError(DataError):
    """An image file that cannot be read; ``why`` without its place."""

    def __init__(self, problems: str | Problem | Sequence[Problem], why: str = "") -> None:
        super().__init__(problems)
        self.why = why or str(self)


def white_level(peak: float, integers: bool) -> int:
    """Return the value that stands for white in images whose largest value is ``peak``: the largest of so many bits, at least 8.

    Floats from 0 to 1 have 1. Examples: 4000 -> 4095, 65535 -> 65535, 200 -> 255.
    """
    if not integers and peak <= 1:
        return 1
    return 2 ** max(8, math.ceil(peak).bit_length()) - 1


def read_image(path: Path | str, white: int = 0) -> np.ndarray:
    """Read an image file as (height, width, 3) uint8, BGR.

    Args:
        path: of the file.
        white: value of a deep image that becomes 255: the data set's (``DataSpec.white_level``). 0: the image's own.

    Raises:
        ImageError: the file is missing, unreadable or damaged; in one line.
    """
    try:
        return to_8_bits(decode(Path(path).read_bytes()), white)
    except OSError as error:
        why = error.strerror or str(error)
    except ValueError as error:
        why = str(error)
    raise ImageError(f"image {readable(str(path))} cannot be read: {why}", why)


def read_rgb(path: Path | str, white: int = 0) -> np.ndarray:
    """Read as ``read_image`` does, in the order RGB. Raises ImageError."""
    return np.ascontiguousarray(read_image(path, white)[:, :, ::-1])


def to_8_bits(pixels: np.ndarray, white: int = 0) -> np.ndarray:
    """Scale what ``decode`` returned into uint8; 8-bit pixels are returned as they are."""
    if pixels.dtype == np.uint8:
        return pixels
    if not white:
        white = white_level(peak_of(pixels), is_integer(pixels))
    scaled = pixels.astype(np.float32) * np.float32(255 / white)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def is_integer(pixels: np.ndarray) -> bool:
    """Return True if the values are integers."""
    return pixels.dtype.kind in "iu"


def peak_of(pixels: np.ndarray) -> float:
    """Return the largest value, at least 0."""
    return max(0.0, float(pixels.max()))


def decode(data: bytes) -> np.ndarray:
    """Decode an image file: (height, width, 3), BGR, uint8, or of a wider type where the file holds more than 8 bits.

    Raises:
        ValueError: it is damaged or no image; the message is a predicate of the file.
    """
    if not data:
        raise ValueError("it is empty")
    pixels = _with_opencv(data)
    if pixels is None:
        pixels = _with_pillow(data)
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise ValueError(_too_large(pixels.shape[1], pixels.shape[0]))
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError("it holds values that are not finite")
    return pixels


def may_be_deep(head: bytes) -> bool:
    """Return True if a file that begins so, with 32 bytes or more, may hold more than 8 bits a channel."""
    if head.startswith(_PNG):
        return head[_PNG_DEPTH_AT : _PNG_DEPTH_AT + 1] == b"\x10"
    return not head.startswith(_EIGHT_BIT) and head[4:12] not in (b"ftypavif", b"ftypavis")


def size_problem(width: int, height: int) -> str:
    """Return why an image of this size is refused, or nothing."""
    return _too_large(width, height) if width * height > MAX_PIXELS else ""


def _too_large(width: int, height: int) -> str:
    return f"it has {width} x {height} px, and at most {MAX_PIXELS:,} px are read"


@functools.cache
def _opencv() -> Any:
    """Return OpenCV without its messages; Pillow may read what it cannot."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _with_opencv(data: bytes) -> np.ndarray | None:
    """Return the pixels, or None if OpenCV cannot read them."""
    if data.startswith(_PNG) and data.find(_PNG_END, -64) < 0 and not may_be_deep(data[:32]):
        return None  # OpenCV refuses a PNG without its last chunk; its pixels may all be there
    cv2 = _opencv()
    buffer = np.frombuffer(data, np.uint8)
    colour = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    ways = (colour | cv2.IMREAD_ANYDEPTH, cv2.IMREAD_UNCHANGED) if may_be_deep(data[:32]) else (colour,)
    for flags in ways:
        try:
            pixels = cv2.imdecode(buffer, flags)
        except cv2.error:
            continue
        if pixels is not None and pixels.size and pixels.ndim in (2, 3):
            return _three_channels(pixels)
    return None


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 3:
        return pixels
    # one channel is grey, two are grey with alpha, four are colour with alpha
    return np.ascontiguousarray(np.repeat(pixels[:, :, :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[:, :, :3])


def _with_pillow(data: bytes) -> np.ndarray:
    """Return the pixels. Raises ValueError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in _REFUSED_FORMATS:
                raise ValueError(f"{image.format} is no pixel format")
            if problem := size_problem(*image.size):
                raise ValueError(problem)
            image.load()
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                return _three_channels(np.asarray(image))
            if data.startswith(_PNG) and may_be_deep(data[:32]) or max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))) > 8:
                raise ValueError(
                    "it is damaged, or holds more than 8 bits a channel in a form that cannot be read"
                )  # Pillow would cut them
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    except UnidentifiedImageError:
        raise ValueError(NOT_AN_IMAGE) from None
    except Image.DecompressionBombError:
        raise ValueError(f"it has more than {MAX_PIXELS:,} px") from None
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error, RuntimeError, ...
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
