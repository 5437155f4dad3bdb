"""A full disk is recognised whichever library met it, and nothing else is taken for one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pipeline.errors import DiskFull
from pipeline.storage.disk import disk_full, writing_to
from tests.support.small_disk import on_a_small_disk

WRITERS = """
    import sys
    from contextlib import suppress
    from pathlib import Path
    import numpy, pyarrow, torch
    import pyarrow.parquet
    import safetensors.torch
    from pipeline.storage.disk import disk_full
    folder = Path(sys.argv[1])
    numbers = numpy.random.default_rng(0).normal(size=1 << 18)
    table = pyarrow.table({"x": numbers})
    writers = {
        "bytes": lambda: (folder / "a").write_bytes(bytes(1 << 21)),
        "safetensors": lambda: safetensors.torch.save_file(
            {"x": torch.from_numpy(numbers)}, folder / "b"
        ),
        "arrow": lambda: pyarrow.parquet.write_table(table, folder / "c"),
        "torch": lambda: torch.save(torch.from_numpy(numbers), folder / "d"),
    }
    for name, write in writers.items():
        try:
            write()
        except Exception as error:
            try:
                raise RuntimeError("wrapped") from error
            except RuntimeError as wrapped:
                (folder / "rest").write_bytes(b"")
                with suppress(OSError):  # what was half written is gone
                    (folder / "rest").write_bytes(bytes(1 << 20))
                print(name, disk_full(wrapped) or repr(error))
        for file in folder.iterdir():
            file.unlink()
"""


def test_every_librarys_words_for_a_full_disk_are_known(tmp_path: Path) -> None:
    disk, lines = on_a_small_disk(WRITERS, tmp_path)
    assert [line.split()[0] for line in lines] == ["bytes", "safetensors", "arrow", "torch"]
    for line in lines:
        assert "a disk of this machine is full (" in line
        assert "Free some space, then start the same command again" in line
        assert f"({disk}" in line


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/out/x"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("ray::f() (pid=1)\nOSError: [Errno 28] No space left on device: '/tmp/x'"),
    ],
)
def test_a_full_disk_is_told_by_number_or_words(error: Exception) -> None:
    full = disk_full(error)
    assert isinstance(full, DiskFull)
    assert "\n" not in str(full)
    assert "again: the run goes on" in str(full)
    assert disk_full(full) is full


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), ValueError("no space between words")]
)
def test_nothing_else_is(error: Exception) -> None:
    assert disk_full(error) is None
    error.__cause__ = error  # no chain is followed for ever
    assert disk_full(error) is None


def test_the_folder_that_is_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=rf"is full \({tmp_path}\): No space"), writing_to(tmp_path):
        raise ValueError("No space left on device (os error 28)")
    with pytest.raises(ZeroDivisionError), writing_to(tmp_path):
        raise ZeroDivisionError
