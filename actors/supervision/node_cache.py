"""Folders on a node's own disk: those that live as long as who works with them, and shared trees.

Such are a driver's temporary files with those of all that it starts, an engine's on a node of a
cluster, and what a learner's rank is about to store. Beside them lie the trees (policies,
checkpoints) that every process of the user on this node shares: `pipeline.storage.tree_cache`.

What always holds: a folder is there as long as a process on this node that works with it lives, and
whatever is left of dead ones is removed by the next that starts.

A process holds a shared lock on `<folder>.mstar-held` for its life (the kernel lets go of it,
however it ends); a folder may be removed by whoever gets that lock for itself.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.errors import UserError
from pipeline.storage.tree_cache import TreeCache

_SUFFIX = ".mstar-held"  # of nobody else's: what lies beside such a file is removed
_held: dict[Path, int] = {}
"""Open lock files of this process, by folder: closing one would let go of its lock."""

Salvage = Callable[[Path], None]


def _nothing(folder: Path) -> None:
    """Nothing of a dead process's folder is wanted."""


def hold(folder: Path, *, salvage: Salvage = _nothing) -> Path:
    """Make a folder that nobody removes while this process lives, and sweep its neighbours.

    salvage: takes what is wanted out of a neighbour before it is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder not in _held:
        _held[folder] = _lock(_lock_of(folder))
    folder.mkdir(exist_ok=True)
    sweep(folder.parent, salvage)
    return folder


def let_go(folder: Path) -> None:
    """Hold a folder no longer: the next sweep removes it."""
    os.close(_held.pop(folder))


def sweep(parent: Path, salvage: Salvage = _nothing) -> list[Path]:
    """Remove the folders that no living process holds; which they were."""
    known = [file.with_suffix("") for file in sorted(parent.glob(f"*{_SUFFIX}"))]
    return [folder for folder in known if folder not in _held and _remove(folder, salvage)]


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _SUFFIX)


def _lock(file: Path) -> int:
    """A shared lock on the file that has this name, which a sweeper may just have removed."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is(descriptor, file):
            return descriptor
        os.close(descriptor)


def _is(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.fstat(descriptor).st_ino == file.stat().st_ino
    except FileNotFoundError:
        return False


def _remove(folder: Path, salvage: Salvage) -> bool:
    try:
        descriptor = os.open(_lock_of(folder), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        # Another sweep may have removed it, and somebody begun it anew, since this was opened.
        if not _is(descriptor, _lock_of(folder)):
            return False
        salvage(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():  # the next sweep tries the rest
            return False
        _lock_of(folder).unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


SOCKET_BYTES = 107 - len("/session_2026-11-27_19-27-14_466396_4194304/sockets/plasma_store")
"""How long the path of a folder may be that Ray puts its sockets in."""


@contextmanager
def job_folder(temporary: Path) -> Iterator[Path]:
    """A folder for the temporary files of this job and of all that it starts, below `temporary` (or
    below /tmp, where that path is too long for Ray's sockets). It is removed at the end; what a
    killed job left is removed by the next that begins.

    Raises:
        UserError: the place of all such folders is another user's.
    """
    folder = _folder_below(temporary, "job")
    hold(folder)
    try:
        yield folder
    finally:
        let_go(folder)
        sweep(folder.parent)


def take_temporary_folder() -> None:
    """Give this process, and what it starts, a folder for temporary files. Once it is dead, the
    next such process on this node removes it: on a node of a cluster nothing else would.

    In a job's own Ray there is such a folder already, and this does nothing.

    Raises:
        UserError: the place of all such folders is another user's.
    """
    temporary = Path(tempfile.gettempdir())
    if any(above.name == caches(temporary).name for above in temporary.parents):
        return
    folder = _folder_below(temporary, "engine")
    hold(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def take_code_folder(place: str | None, trusted: bool) -> None:
    """Where code of models is run (`trusted`), have transformers put its copy of that code into a
    folder of this process on the node's cache, and not into the home that all processes share.

    To be called before transformers is imported. place: as `tree_cache` takes it.
    """
    if trusted:
        folder = hold(tree_cache(place).folder.parent / "code" / secrets.token_hex(8))
        os.environ["HF_MODULES_CACHE"] = str(folder)


def _folder_below(temporary: Path, what: str) -> Path:
    """Where a folder goes whose path is short enough for sockets; nobody else's is in its way.

    Raises:
        UserError: the place of all such folders is another user's.
    """
    name = f"{what}-{secrets.token_hex(4)}"
    folder = caches(temporary) / name
    if len(os.fsencode(folder)) > SOCKET_BYTES:
        folder = caches(Path("/tmp")) / name
    _check_ours(folder.parent)
    return folder


def _check_ours(place: Path) -> None:
    """Whoever else owned it could put anything in the way of what is made and removed there."""
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(
            f"{place} is not a folder of this user, and is for temporary files of this user only: "
            "remove it, or set TMPDIR to another place"
        )


def cache_place(config: Config) -> str | None:
    """Where the nodes of a run keep trees, as it is sent to them; None: each in its own temporary
    folder. (In a private Ray that variable names a folder which goes with the job.)"""
    if config.cluster.node_cache is not None:
        return config.cluster.node_cache
    return tempfile.gettempdir() if config.cluster.address is None else None


def tree_cache(place: str | None) -> TreeCache:
    """This node's trees.

    place: see `cache_place`.

    Raises:
        UserError: the folder is another user's.
    """
    folder = caches(Path(place or tempfile.gettempdir()).expanduser().absolute())
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_ours(folder)
    return TreeCache(folder / "trees")


def caches(cache: Path) -> Path:
    """Where all such folders of this user are."""
    return cache / f"mstar-{os.getuid()}"
