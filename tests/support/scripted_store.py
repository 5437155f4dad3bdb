"""A store whose calls fail as a script says: what stands between the pure code and bad luck.

`ScriptedBackend` has the contract of every other backend. Before and after each call it asks its
script, `script(operation, path, number)`, for one of the faults below, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipeline.errors import StoreUnavailable
from pipeline.storage.backend import Attempt, Backend, Entry
from pipeline.storage.store import Store

Result = TypeVar("Result")
Fault = Literal["crash_before", "crash_after", "lose_request", "lose_answer"]
Script = Callable[[str, str, int], Fault | None]


class Crash(BaseException):
    """The process dies here. Not an Exception: nothing may handle it."""


def _plainly(action: Callable[..., Result], *args: Any) -> Result:
    return action(*args)


class ScriptedBackend:
    """`inner`, with the faults of `script`; `calls` are the operations that took effect."""

    def __init__(self, inner: Backend, script: Script | None = None) -> None:
        self.inner = inner
        self.script: Script = script or (lambda operation, path, number: None)
        self.url = inner.url
        self.latency_bound = inner.latency_bound
        self.exclusive = True
        self.attempts = 0
        self.calls: list[tuple[str, str]] = []

    def _call(self, operation: str, path: str, action: Callable[[], Result]) -> Result:
        fault = self.script(operation, path, self.attempts)
        self.attempts += 1
        if fault == "crash_before":
            raise Crash(f"before {operation} {path}")
        if fault == "lose_request":
            raise StoreUnavailable(f"{operation} {path}: the request was lost")
        result = action()
        self.calls.append((operation, path))
        if fault == "crash_after":
            raise Crash(f"after {operation} {path}")
        if fault == "lose_answer":
            raise StoreUnavailable(f"{operation} {path}: the answer was lost")
        return result

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        return self._call("read", path, lambda: self.inner.read(path, start, end))

    def write(self, path: str, data: bytes) -> None:
        return self._call("write", path, lambda: self.inner.write(path, data))

    def create(self, path: str, data: bytes) -> bool:
        return self._call("create", path, lambda: self.inner.create(path, data))

    def upload(self, path: str, source: Path, attempt: Attempt) -> None:
        def once() -> None:
            self._call("upload", path, lambda: self.inner.upload(path, source, _plainly))

        attempt(once)

    def stat(self, path: str) -> Entry | None:
        return self._call("stat", path, lambda: self.inner.stat(path))

    def list(self, folder: str) -> list[Entry]:
        return self._call("list", folder, lambda: self.inner.list(folder))

    def delete(self, path: str) -> None:
        return self._call("delete", path, lambda: self.inner.delete(path))

    def move(self, source: str, target: str) -> None:
        return self._call("move", source, lambda: self.inner.move(source, target))

    def sync(self, path: str) -> None:
        return self._call("sync", path, lambda: self.inner.sync(path))

    def create_is_exclusive(self) -> bool:
        return self.exclusive and self.inner.create_is_exclusive()


def patient(backend: Backend, patience_s: float = 60.0) -> Store:
    """A store that waits without spending time."""
    return Store(backend, patience_s=patience_s, sleep=lambda seconds: None, say=lambda line: None)
