"""Image files: what they hash to, whether they can be used, and how they become pixels.

An image that passed `check_file` decodes completely, is of at most `Limits.max_pixels` pixels, and
`to_rgb` gives the same pixels of it everywhere. Size is read from the header before anything is
decoded, and at most `threads` images are in memory at a time, however many there are to check.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from pipeline.errors import LFS_HINT, LFS_POINTER
from pipeline.hashing import sha256_hex

# Formats whose decoders are part of Pillow and are tested against garbage
# (tests/pipeline/datasets/test_images.py). Others (PostScript, for one, which starts a program)
# stay closed to files from anywhere.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}

# How files of these formats begin, for telling a damaged image from what never was one.
_SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
# An embedded colour profile or description of some MB is no attack on a file that may have 32 MB;
# what all of them take together stays bounded by Pillow's MAX_TEXT_MEMORY.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# What Pillow's decoders raise on broken bytes.
_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError),
    *(struct.error, zlib.error),
)
# Futures in flight: enough to keep the threads busy, few enough to forget the rest of a million.
_WINDOW = 4096


@dataclass(frozen=True)
class Limits:
    """How much of the user's data is believed.

    max_image_bytes: largest image file, in bytes.
    max_pixels: largest width times height; 50 million pixels are 150 MB when decoded.
    decode_images: decode every image at load. False checks size and header only, and an image that
        breaks later is met in the middle of a run.
    listed: how many bad rows an error lists before "and N more".
    threads: images decoded at the same time.
    """

    max_image_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    decode_images: bool = True
    listed: int = 20
    threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))


@dataclass(frozen=True)
class CheckedImage:
    """The hash of an image file's bytes, or why it cannot be used.

    size: width and height in pixels, as models see it (as stored, where images are not decoded).
    blank: it has one colour throughout.
    """

    sha: str | None
    problem: str | None
    size: tuple[int, int] = (0, 0)
    blank: bool = False


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB as a person sees the file: turned as its EXIF says, transparency over white.

    Only the first frame of an animation counts.

    Raises:
        ValueError: for grey of more than 8 bits, which Pillow would clip to white.
    """
    if image.mode[:1] in ("I", "F"):
        raise ValueError(f"has grey pixels of more than 8 bits ({image.mode}); save it with 8")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def decode(data: bytes) -> Image.Image:
    """The RGB pixels of an image file's bytes."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return to_rgb(image)


def bytes_problem(data: bytes, limits: Limits) -> str | None:
    """Why these bytes of an image file cannot be used, or None."""
    return check_bytes(data, limits).problem


def check_bytes(data: bytes, limits: Limits) -> CheckedImage:
    """Check and hash the bytes of one image file."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                most = f"the limit is {limits.max_pixels:,} in all (data.max_image_pixels)"
                return _refused(f"is enormous: {width}x{height} pixels, {most}")
            if limits.decode_images:
                # Finds what decoding forgives: a wrong checksum, a missing end.
                image.verify()
        if not limits.decode_images:
            return CheckedImage(sha256_hex(data), None, (width, height))
        picture = decode(data)
        return CheckedImage(sha256_hex(data), None, picture.size, picture.getcolors(1) is not None)
    except UnidentifiedImageError:
        return _refused(_unidentified(data))
    except Image.DecompressionBombError:
        most = f"the limit is {limits.max_pixels:,} pixels (data.max_image_pixels)"
        return _refused(f"is enormous, {most}")
    except _DECODE_ERRORS as error:
        if "MAX_TEXT" in str(error):
            return _refused("has more metadata than can be read; save it again without")
        return _refused(f"cannot be decoded, truncated or damaged: {error}")


def _refused(problem: str) -> CheckedImage:
    return CheckedImage(None, problem)


def _unidentified(data: bytes) -> str:
    if _begins_as_image(data):
        return "cannot be decoded, truncated or damaged: its header is not readable"
    if data.startswith(LFS_POINTER):
        return LFS_HINT
    return f"is not an image (known are {', '.join(FORMATS)})"


def _begins_as_image(data: bytes) -> bool:
    """Whether this is a file of a known format, as far as its first bytes say."""
    if data.startswith(b"RIFF"):
        return data[8:12] == b"WEBP"
    return data.startswith(_SIGNATURES) or (data.startswith(b"BM") and data[6:10] == b"\0" * 4)


def check_file(path: str, limits: Limits) -> CheckedImage:
    """Read one image file, check it and hash its bytes."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return _refused("is not a file")
        if found.st_size == 0:
            return _refused("is empty")
        if found.st_size > limits.max_image_bytes:
            size = f"{found.st_size:,} bytes, the limit is {limits.max_image_bytes:,}"
            return _refused(f"is enormous: {size}")
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return _refused("does not exist")
    except OSError as error:
        return _refused(f"cannot be read: {error.strerror}")
    return check_bytes(data, limits)


def check_files(
    paths: Iterable[str], limits: Limits, progress: Callable[[int], None] | None = None
) -> dict[str, CheckedImage]:
    """Check image files on a pool of threads (Pillow decodes outside the GIL).

    `progress` is called with the number of files checked so far, now and then.
    """
    checked: dict[str, CheckedImage] = {}
    todo = iter(paths)
    with warnings.catch_warnings(), ThreadPoolExecutor(limits.threads) as pool:
        # Pillow warns of sizes that our own limit decides about, and of odd EXIF tags.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        while window := list(islice(todo, _WINDOW)):
            checked.update(
                zip(window, pool.map(lambda p: check_file(p, limits), window), strict=True)
            )
            if progress is not None:
                progress(len(checked))
    return checked


def suffix_of(data: bytes) -> str:
    """The usual file suffix for these image bytes, without a dot."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return SUFFIXES.get(image.format or "", "tiff")
