"""Image files: every kind of bad one is named before it is decoded, and good ones look as meant."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.datasets.images import (
    FORMATS,
    Limits,
    bytes_problem,
    check_bytes,
    check_file,
    check_files,
    decode,
    suffix_of,
)
from pipeline.hashing import sha256_hex


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def noise(seed: int = 0, size: tuple[int, int] = (20, 16)) -> Image.Image:
    pixels = random.Random(seed).randbytes(size[0] * size[1] * 3)
    return Image.frombytes("RGB", size, pixels)


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that declares its size and holds hardly any pixels: what a decompression bomb is."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def problem_of(data: bytes, tmp_path: Path, limits: Limits | None = None) -> str:
    path = tmp_path / "image.png"
    path.write_bytes(data)
    checked = check_file(str(path), limits or Limits())
    assert checked.sha is None
    assert checked.problem is not None
    return checked.problem


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_passes_and_hashes_to_its_bytes(kind: str, tmp_path: Path) -> None:
    data = encoded(noise(), kind)
    path = tmp_path / "named-as-it-likes"
    path.write_bytes(data)
    checked = check_file(str(path), Limits())
    assert checked.problem is None
    assert checked.sha == sha256_hex(data)
    assert decode(data).size == (20, 16)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_image_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    data = encoded(noise(), kind)
    problem = problem_of(data[: int(len(data) * share)], tmp_path)
    assert "truncated" in problem or "not an image" in problem


def test_a_png_that_lost_only_its_end_is_refused(tmp_path: Path) -> None:
    assert "truncated" in problem_of(encoded(noise())[:-12], tmp_path)


@pytest.mark.parametrize("data", [b"hello", b"<svg/>", b"%PDF-1.4", b"%!PS-Adobe\n", b"\0" * 999])
def test_what_is_no_image_is_refused(data: bytes, tmp_path: Path) -> None:
    assert "is not an image" in problem_of(data, tmp_path)


def test_a_damaged_header_is_not_taken_for_another_format(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Title", "a drawing")
    data = bytearray(encoded(noise(), pnginfo=info))
    data[data.index(b"tEXt") + 4] ^= 1  # the checksum no longer fits
    assert "damaged" in problem_of(bytes(data), tmp_path)
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        assert "damaged" in problem_of(encoded(noise(), kind)[:16], tmp_path)
    assert "is not an image" in problem_of(b"RIFF\0\0\0\0WAVEfmt ", tmp_path)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
def test_large_metadata_does_not_spoil_a_picture(kind: str, tmp_path: Path) -> None:
    large = "x" * (2 << 20)
    info = PngInfo()
    if kind == "zTXt":
        info.add_text("Comment", large, zip=True)
    elif kind == "iTXt":
        info.add_itxt("Comment", large, zip=True)
    profile = random.Random(0).randbytes(2 << 20) if kind == "iCCP" else None
    data = encoded(noise(), pnginfo=info, icc_profile=profile)
    assert kind.encode() in data
    assert bytes_problem(data, Limits()) is None
    assert decode(data).tobytes() == noise().tobytes()


def test_more_metadata_than_memory_is_named_as_such(tmp_path: Path) -> None:
    info = PngInfo()
    for number in range(3):
        info.add_text(f"Comment {number}", "x" * (30 << 20), zip=True)
    assert "more metadata than can be read" in problem_of(encoded(noise(), pnginfo=info), tmp_path)


def test_size_and_blankness_are_those_that_models_see() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = check_bytes(encoded(noise(), "JPEG", exif=exif), Limits())
    assert (turned.size, turned.blank) == ((16, 20), False)
    drawing = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    drawing.putpixel((3, 3), (255, 255, 255, 255))
    assert check_bytes(encoded(drawing), Limits()).blank
    drawing.putpixel((3, 3), (254, 255, 255, 255))
    assert not check_bytes(encoded(drawing), Limits()).blank


def test_missing_empty_folder_and_pipe(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe")  # reading one would wait for ever
    limits = Limits()
    assert check_file(str(tmp_path / "none.png"), limits).problem == "does not exist"
    assert check_file(str(tmp_path / "folder"), limits).problem == "is not a file"
    assert check_file(str(tmp_path / "pipe"), limits).problem == "is not a file"
    assert check_file(str(tmp_path / "empty.png"), limits).problem == "is empty"
    assert "cannot be read" in str(check_file(str(tmp_path / ("x" * 300)), limits).problem)


@pytest.mark.parametrize("side", [7_100, 10_000, 20_000, 100_000])
def test_an_enormous_image_is_refused_from_its_header(side: int, tmp_path: Path) -> None:
    # 10,000 squared makes Pillow warn and 20,000 squared makes it raise: both are ours to decide.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = tmp_path / "bomb.png"
        path.write_bytes(png_header_only(side, side))
        checked = check_files([str(path)], Limits())[str(path)]
    assert checked.problem is not None
    assert "enormous" in checked.problem


def test_the_limits_are_the_users(tmp_path: Path) -> None:
    data = encoded(noise())
    assert "20x16" in problem_of(data, tmp_path, Limits(max_pixels=319))
    assert "bytes" in problem_of(data, tmp_path, Limits(max_image_bytes=len(data) - 1))
    assert bytes_problem(data, Limits(max_pixels=320, max_image_bytes=len(data))) is None


def test_without_decoding_only_the_header_counts() -> None:
    broken = encoded(noise())[:100]
    assert bytes_problem(broken, Limits(decode_images=False)) is None
    assert bytes_problem(broken, Limits()) is not None


@given(
    st.sampled_from([encoded(noise(), kind) for kind in FORMATS]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0.05, 1),
)
def test_garbage_gives_a_problem_or_pixels_never_an_exception(
    data: bytes, flips: list[tuple[float, int]], keep: float
) -> None:
    broken = bytearray(data[: int(len(data) * keep)])
    for place, value in flips:
        broken[int(place * len(broken))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if bytes_problem(bytes(broken), Limits(max_pixels=10**6)) is None:
            assert decode(bytes(broken)).mode == "RGB"


def test_many_files_are_checked_and_reported(tmp_path: Path) -> None:
    paths = []
    for index in range(30):
        paths.append(str(tmp_path / f"{index}.png"))
        Path(paths[-1]).write_bytes(encoded(noise(index)) if index % 3 else b"no")
    seen: list[int] = []
    checked = check_files(paths, Limits(threads=3), seen.append)
    assert list(checked) == paths
    assert [c.sha is None for c in checked.values()] == [i % 3 == 0 for i in range(30)]
    assert seen[-1] == 30


def test_transparency_is_white() -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    shown = decode(encoded(clear))
    assert [shown.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (255, 0, 0)]
    palette = clear.convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    shown = decode(encoded(palette, transparency=palette.getpixel((0, 0))))
    assert shown.getpixel((0, 0)) == (255, 255, 255)


def test_an_image_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, as phones store upright photographs
    assert decode(encoded(noise(), "JPEG", exif=exif)).size == (16, 20)


def test_grey_and_black_and_white_become_rgb() -> None:
    assert decode(encoded(Image.new("L", (1, 1), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert decode(encoded(Image.new("1", (1, 1), 1))).getpixel((0, 0)) == (255, 255, 255)


def test_grey_of_sixteen_bits_is_refused_not_clipped(tmp_path: Path) -> None:
    deep = Image.frombytes("I;16", (2, 1), struct.pack("<HH", 300, 60_000))
    assert "more than 8 bits" in problem_of(encoded(deep), tmp_path)


def test_suffixes_follow_the_bytes() -> None:
    assert [suffix_of(encoded(noise(), kind)) for kind in FORMATS] == [
        *("png", "jpg", "webp", "gif", "bmp", "tiff")
    ]
