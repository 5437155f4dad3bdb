"""What a place that keeps objects must do: the contract under `pipeline.storage.store.Store`.

A backend moves bytes and nothing else. What always holds:

* an object is complete or absent: no reader ever sees half of a write;
* a call that returned is durable, as far as the place can promise it;
* one call is one attempt: waiting and trying again is `Store`'s business, so a backend only says
  which of the two kinds a failure is, `StoreUnavailable` (ask again) or `StoreRefused` (do not).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.errors import StoreMissing, StoreRefused

Result = TypeVar("Result")

TEMPORARY = ".tmp"
"""First part of the paths that a backend keeps for itself; no object may use it."""

_MAX_PATH_BYTES = 900
_MAX_PART_BYTES = 255


class StoreFull(StoreRefused):
    """The place has no room left: free some, then start the same command again."""


@dataclass(frozen=True)
class Entry:
    """One stored object: its path, its size, and when it was written by the store's own clock."""

    path: str
    size_bytes: int
    modified_unix_s: float


class Attempt(Protocol):
    """Calls an action, again and again while the store is away: `Store`'s patience, lent."""

    def __call__(self, action: Callable[..., Result], *args: Any) -> Result: ...


class Backend(Protocol):
    """Bytes by path. `latency_bound` says whether many small reads are faster in parallel."""

    url: str
    latency_bound: bool

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes `[start, end)` of an object; StoreMissing when there is none."""

    def write(self, path: str, data: bytes) -> None:
        """Put `data` there in one piece, over whatever is there."""

    def create(self, path: str, data: bytes) -> bool:
        """Put `data` there if nothing is; False, and nothing changed, when something is."""

    def upload(self, path: str, source: Path, attempt: Attempt) -> None:
        """`write`, from a file that may be larger than memory.

        The one call that is more than one attempt: what has arrived of a large file is not sent
        again because the rest has to wait, so each of its steps goes through `attempt`.
        """

    def stat(self, path: str) -> Entry | None:
        """The entry of an object, None when there is none."""

    def list(self, folder: str) -> list[Entry]:
        """Every object below a folder ("" is the root), in the order of their paths."""

    def delete(self, path: str) -> None:
        """Remove an object; removing what is not there is fine."""

    def move(self, source: str, target: str) -> None:
        """Give an object another path; StoreMissing when it is not there."""

    def sync(self, path: str) -> None:
        """Make durable what another process may have written and not made durable."""

    def create_is_exclusive(self) -> bool:
        """Whether of two racing `create` calls at most one can return True, found by trying."""


def check_path(path: str) -> str:
    """Return `path`, which must be relative, inside the store and the same on every backend.

    Raises:
        StoreRefused: for a path that is empty, absolute, climbs out with "..", or holds a
            backslash, a control character or a part no file system would take.
    """
    parts = path.split("/")
    problem = ""
    if not path or path.startswith("/"):
        problem = "it must be relative and not empty"
    elif any(part in ("", ".", "..") for part in parts):
        problem = 'no part of it may be empty, "." or ".."'
    elif "\\" in path or not path.isprintable():
        problem = "it holds a backslash or a control character"
    elif parts[0] == TEMPORARY:
        problem = f"{TEMPORARY}/ is the store's own"
    elif max(len(part.encode("utf-8", "replace")) for part in parts) > _MAX_PART_BYTES:
        problem = f"a part of it is longer than {_MAX_PART_BYTES} bytes"
    elif len(path.encode("utf-8", "replace")) > _MAX_PATH_BYTES:
        problem = f"it is longer than {_MAX_PATH_BYTES} bytes"
    if problem:
        raise StoreRefused(f"{path!r} cannot be the path of an object: {problem}")
    return path


def printable(text: str) -> str:
    """`text` with every character escaped that would move a terminal's cursor, or has no form: what
    lies in a store may have any name."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


class MemoryBackend:
    """Objects in a dictionary of this process: for tests, and the model the others must match."""

    latency_bound = False

    def __init__(self, url: str = "memory://", clock: Callable[[], float] = time.time) -> None:
        self.url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, float]] = {}

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        with self._lock:
            if path not in self._objects:
                raise StoreMissing(f"{self.url}: no object {path}")
            return self._objects[path][0][start:end]

    def write(self, path: str, data: bytes) -> None:
        with self._lock:
            self._objects[path] = (bytes(data), self._clock())

    def create(self, path: str, data: bytes) -> bool:
        with self._lock:
            if path in self._objects:
                return False
            self._objects[path] = (bytes(data), self._clock())
            return True

    def upload(self, path: str, source: Path, attempt: Attempt) -> None:
        attempt(self.write, path, source.read_bytes())

    def stat(self, path: str) -> Entry | None:
        with self._lock:
            if path not in self._objects:
                return None
            data, modified = self._objects[path]
            return Entry(path, len(data), modified)

    def list(self, folder: str) -> list[Entry]:
        prefix = f"{folder}/" if folder else ""
        with self._lock:
            return [
                Entry(path, len(data), modified)
                for path, (data, modified) in sorted(self._objects.items())
                if path.startswith(prefix)
            ]

    def delete(self, path: str) -> None:
        with self._lock:
            self._objects.pop(path, None)

    def move(self, source: str, target: str) -> None:
        with self._lock:
            if source not in self._objects:
                raise StoreMissing(f"{self.url}: no object {source}")
            self._objects[target] = self._objects.pop(source)

    def sync(self, path: str) -> None:
        """Memory has nothing to make durable."""

    def create_is_exclusive(self) -> bool:
        return True
