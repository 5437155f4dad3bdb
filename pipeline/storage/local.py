"""Objects as files of a folder on this machine, or on a file system it mounts.

What always holds: an object's bytes are on disk before its name is, and its name is on disk before
the call returns (temporary file, fsync, link or rename, fsync of every folder whose entries
changed), so a loss of power leaves an object complete or absent. A create-only write is a hard
link, which the kernel refuses when the name is taken. What a killed process leaves is one
file under `.tmp/`, locked while its writer lives; the next process that writes here removes those
nobody holds.

Nothing outside the folder is listed, written or deleted: below it no symbolic link is followed (the
folder itself may be one).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import StoreError, StoreMissing, StoreRefused, StoreUnavailable
from pipeline.storage.backend import TEMPORARY, Attempt, Entry, StoreFull, printable

_YOUNG_S = 60.0
"""A temporary file younger than this may be between its creation and its lock."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
COPY_BYTES = 4 << 20
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_ASK_AGAIN = {
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EREMOTEIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
}
"""What a network file system says while its server is away."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


def store_error(error: OSError, what: str) -> StoreError:
    """The store error that an `OSError` stands for; `what` names the store and the object."""
    why = f"{what}: {error.strerror or error}"
    if error.errno in _FULL:
        return StoreFull(f"{why}. Free some space there, then start the same command again.")
    if error.errno in _ASK_AGAIN:
        return StoreUnavailable(why)
    return StoreRefused(f"{why}. Check that the folder exists and that this user may write to it.")


@contextmanager
def _ignoring(numbers: Container[int | None]) -> Iterator[None]:
    """`suppress`, by the number of the system's error."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def _lock(handle: int) -> bool:
    """Take the file's lock without waiting; False when it is held or there are no locks here."""
    with suppress(BlockingIOError), _ignoring(_NO_LOCKS):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


class LocalBackend:
    """A folder. The first write makes it, so reading a place that is not there leaves no trace."""

    latency_bound = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.url = str(self.folder)
        self._opening = threading.Lock()
        self._opened = False
        self._durable_folders: set[Path] = set()

    @contextmanager
    def _errors(self, path: str = "", reading: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if reading and error.errno in _ABSENT:
                raise StoreMissing(f"{self.url}: no object {path}") from error
            what = f"{self.url}: {printable(path)}" if path else self.url
            raise store_error(error, what) from error

    def _open(self) -> None:
        """Before the first write: make the folder, drop the temporary files of dead writers."""
        with self._opening:
            if not self._opened:
                self._check_inside(TEMPORARY)
                (self.folder / TEMPORARY).mkdir(parents=True, exist_ok=True)
                self._sweep()
                self._opened = True

    def _check_inside(self, folder: str) -> None:
        """
        Raises:
            StoreRefused: this folder of the store, or one above it, is a link.
        """
        place = self.folder
        for part in filter(None, folder.split("/")):
            place /= part
            if place.is_symlink():
                raise StoreRefused(
                    f"{printable(str(place))} is a link, and a store reaches through none: put the "
                    "folder that it points to in its place, or make the whole store the link"
                )

    def _sweep(self) -> None:
        for entry in os.scandir(self.folder / TEMPORARY):
            if not entry.is_file(follow_symlinks=False):
                continue
            with suppress(FileNotFoundError):  # another process sweeps too
                if time.time() - entry.stat().st_mtime < _YOUNG_S:
                    continue
                handle = os.open(entry.path, os.O_RDWR)
                try:
                    if _lock(handle):  # else its writer is alive
                        os.unlink(entry.path)
                finally:
                    os.close(handle)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        """A locked, empty file on the store's file system, gone at the end whatever happens."""
        self._open()
        path = self.folder / TEMPORARY / secrets.token_hex(12)
        # 0o666 and the umask, unlike tempfile's 0o600: stores are shared between users
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(handle)
            yield handle, path
        finally:
            os.close(handle)
            path.unlink(missing_ok=True)

    def _fsync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and its parents up to the store's, each one's entry durable.

        A folder that is there may have been made by a process that died before its fsync, so the
        first use by this process syncs it too.
        """
        if folder in self._durable_folders:
            return
        self._check_inside(str(folder.relative_to(self.folder)))
        folder.mkdir(parents=True, exist_ok=True)
        missing = [folder, *folder.parents]
        for below in missing[: missing.index(self.folder)]:
            if below in self._durable_folders:
                break
            self._fsync_folder(below.parent)
        if len(self._durable_folders) > 4096:
            self._durable_folders.clear()
        self._durable_folders.add(folder)

    def _fill(self, handle: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)

    def _publish(self, temporary: Path, path: str) -> None:
        target = self.folder / path
        self._make_folder(target.parent)
        os.replace(temporary, target)
        self._fsync_folder(target.parent)

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        with self._errors(path, reading=True), open(self.folder / path, "rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(max(0, end - start))

    def write(self, path: str, data: bytes) -> None:
        with self._errors(path), self._temporary() as (handle, temporary):
            self._fill(handle, data)
            self._publish(temporary, path)

    def create(self, path: str, data: bytes) -> bool:
        target = self.folder / path
        with self._errors(path), self._temporary() as (handle, temporary):
            self._fill(handle, data)
            self._make_folder(target.parent)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in _NO_LINKS:
                    raise StoreRefused(
                        f"{self.url}: this file system has no hard links, which the ledger needs "
                        "so that two drivers cannot write one entry. Use another folder or s3://."
                    ) from error
                raise
            self._fsync_folder(target.parent)
            return True

    def upload(self, path: str, source: Path, attempt: Attempt) -> None:
        attempt(self._copy_in, path, source, attempt)

    def _copy_in(self, path: str, source: Path, attempt: Attempt) -> None:
        with self._errors(path), self._temporary() as (handle, temporary):
            with open(source, "rb") as file, open(handle, "wb", closefd=False) as target:
                while data := file.read(COPY_BYTES):
                    attempt(target.write, data)
            os.fsync(handle)
            self._publish(temporary, path)

    def stat(self, path: str) -> Entry | None:
        with self._errors(path), _ignoring(_ABSENT):
            status = os.stat(self.folder / path)
            if stat.S_ISREG(status.st_mode):
                return Entry(path, status.st_size, status.st_mtime)
        return None

    def list(self, folder: str) -> list[Entry]:
        self._check_inside(folder)
        with self._errors(folder):
            entries = list(self._walk(folder))
        return sorted(entries, key=lambda entry: entry.path)

    def _walk(self, folder: str) -> Iterator[Entry]:
        inside: list[os.DirEntry[str]] = []
        with _ignoring(_ABSENT):
            inside = list(os.scandir(self.folder / folder))
        for item in inside:
            path = f"{folder}/{item.name}" if folder else item.name
            if path == TEMPORARY:
                continue
            if item.is_dir(follow_symlinks=False):
                yield from self._walk(path)
            elif item.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # deleted while we looked
                    status = item.stat()
                    yield Entry(path, status.st_size, status.st_mtime)

    def delete(self, path: str) -> None:
        target = self.folder / path
        self._check_inside(path.rpartition("/")[0])
        with self._errors(path), _ignoring(_ABSENT):
            target.unlink()
            self._fsync_folder(target.parent)

    def move(self, source: str, target: str) -> None:
        self._check_inside(source.rpartition("/")[0])
        with self._errors(source, reading=True):
            os.stat(self.folder / source)
        with self._errors(target):
            self._publish(self.folder / source, target)
            self._fsync_folder((self.folder / source).parent)

    def sync(self, path: str) -> None:
        target = self.folder / path
        with self._errors(path):
            self._make_folder(target.parent)
            self._fsync_folder(target.parent)

    def create_is_exclusive(self) -> bool:
        """A hard link is; a file system without them refuses here, before anything is lost."""
        with self._errors(), self._temporary() as (_, temporary):
            link = temporary.with_suffix(".link")
            with _ignoring(_NO_LINKS):
                os.link(temporary, link)
            linked = link.exists()
            link.unlink(missing_ok=True)
            return linked
