"""A full disk, recognised in what any library raises about it.

safetensors, arrow, torch and Ray wrap the system's error in exceptions of their own; what they all
keep is its cause or its words. A full disk is nobody's fault but a person's to mend: trying again,
on this or another process, fills it again.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import DiskFull

_NUMBERS = {errno.ENOSPC, errno.EDQUOT}

_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "Local disk is full",  # Ray, when it cannot spill its objects
    "unexpected pos",  # torch's writer, of which less was written than it gave
)


_FULL_PERCENT = 95.0


def disk_full(error: BaseException, folder: Path | None = None) -> DiskFull | None:
    """The full disk that an exception is about; None when it is about anything else.

    folder: what was written to, where that is known.
    """
    for each in _chain(error):
        if isinstance(each, DiskFull):
            return each
        if getattr(each, "errno", None) in _NUMBERS or any(word in str(each) for word in _WORDS):
            return DiskFull(_message(each, folder))
    return None


Free = Callable[[Path], int]
"""How many bytes a disk has free, by a folder on it."""


def free_bytes(folder: Path) -> int:
    """What the disk of a folder has free for this user."""
    return shutil.disk_usage(folder).free


def _size(count: int) -> str:
    """A number of bytes, in words."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count:,} bytes"


def check_room(folder: Path, needed: int, what: str, free: Free = free_bytes) -> None:
    """Refuse to begin what a disk cannot hold.

    Raises:
        DiskFull: naming the machine, the folder and the numbers.
    """
    there = free(folder)
    if there < needed:
        raise DiskFull(
            f"{socket.gethostname()}: the disk of {folder} has {_size(there)} free, and "
            f"{what} needs {_size(needed)}. Free some space there, or give a folder on a "
            "larger disk (cluster.node_cache), then start the same command again: the run goes on"
        )


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Names the folder where what is done meanwhile meets a full disk.

    Raises:
        DiskFull: it does.
    """
    try:
        yield
    except Exception as error:
        full = disk_full(error, folder)
        if full is None:
            raise
        raise full from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it was raised from, or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _message(error: BaseException, folder: Path | None) -> str:
    lines = str(error).strip().splitlines()  # Ray's texts are a page
    words = next((line for line in lines if any(word in line for word in _WORDS)), lines[0])
    where = folder or getattr(error, "filename", None) or _full_places()
    return (
        f"a disk of this machine is full ({where}): {words.strip()}. Free some space, then start "
        "the same command again: the run goes on (`mstar-ray gc STORE` lists what a store no "
        "longer needs)"
    )


def _full_places() -> str:
    """Where there is no room: most libraries do not say which file they were writing."""
    import psutil

    full: dict[int, str] = {}
    for part in psutil.disk_partitions(all=True):
        with suppress(OSError):  # another user's, or gone
            usage = psutil.disk_usage(part.mountpoint)
            if usage.total and usage.percent >= _FULL_PERCENT and "rw" in part.opts.split(","):
                full.setdefault(os.stat(part.mountpoint).st_dev, part.mountpoint)
    return ", ".join(full.values()) or "`df -h` shows which"
