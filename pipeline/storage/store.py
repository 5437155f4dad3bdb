"""The object store of a run: immutable bytes by path, on a folder, in S3 or in memory.

What always holds:

* an object is complete or absent, and a call that returned is durable;
* `put` is idempotent: what is already there counts only after its bytes were compared; other bytes
  go to `quarantine/` and the object is written anew;
* of two racing `create` calls with different bytes at most one returns True, wherever
  `conditional_writes()` is True; a refusal is read again, so an answer lost on the way back does
  not turn a win into a loss;
* a path ending in the sha256 of its content is never returned by `get_verified` with other bytes;
* waiting happens here and nowhere else: an unavailable store is asked again with growing pauses
  for `patience_s` and each pause is said; a store that refuses, or is full, stops the caller.

A `Store` can be pickled (its URL travels, no connection or credential does).
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from pipeline.errors import BadConfig, CorruptObject, StoreError, StoreMissing, StoreUnavailable
from pipeline.hashing import sha256_hex
from pipeline.storage.backend import Backend, Entry, MemoryBackend, check_path
from pipeline.storage.local import LocalBackend
from pipeline.storage.s3 import S3Backend

Entries = list[Entry]
Item = TypeVar("Item")
Result = TypeVar("Result")

PART_BYTES = 16 << 20
"""Large objects are read in parts of this size, `PARALLEL_READS` at a time."""

PARALLEL_READS = 4
SMALL_READS = 16
"""Small objects read ahead at a time where a read is mostly waiting."""

_log = logging.getLogger("mstar.store")
_growing = wait_exponential(multiplier=0.2, max=10.0)
_memory: dict[str, MemoryBackend] = {}


class Store:
    """Objects by path over one backend, with the patience and the checks the backend lacks."""

    def __init__(
        self,
        backend: Backend,
        *,
        patience_s: float = 300.0,
        say: Callable[[str], None] = _log.warning,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.backend = backend
        self.patience_s = patience_s
        self.part_bytes = PART_BYTES
        self._say = say
        self._sleep = sleep
        self._jitter = random.Random()  # of its own: a retry must not move anyone's random stream

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.backend, MemoryBackend):
            raise TypeError("a memory:// store lives in one process; use a folder or s3://")
        return open_store, (self.url, self.patience_s)

    @property
    def url(self) -> str:
        """Where the store is; holds no credentials."""
        return self.backend.url

    def _call(self, action: Callable[..., Result], *args: Any) -> Result:
        try:
            return action(*args)
        except StoreUnavailable as error:
            return self._patiently(error, action, *args)

    def _patiently(
        self, error: StoreUnavailable, action: Callable[..., Result], *args: Any
    ) -> Result:
        """Go on after a first failure."""
        failures = [error]

        def attempt() -> Result:
            if failures:
                raise failures.pop()
            return action(*args)

        retrying = Retrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=self._pause,
            stop=self._out_of_patience,
            before_sleep=self._say_waiting,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(attempt)

    def _pause(self, state: RetryCallState) -> float:
        return _growing(state) * self._jitter.uniform(0.5, 1.0)

    def _out_of_patience(self, state: RetryCallState) -> bool:
        return max(state.idle_for, state.seconds_since_start or 0.0) >= self.patience_s

    def _say_waiting(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._say(
            f"the store does not answer ({error}); attempt {state.attempt_number}, asking again "
            f"for up to {max(0.0, self.patience_s - state.idle_for):.0f} s"
        )

    def get(self, path: str) -> bytes:
        """The bytes of an object; StoreMissing when there is none."""
        return self._call(self.backend.read, check_path(path))

    def get_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        """The bytes of many small objects, in order, read ahead where reads are mostly waiting."""
        if not self.backend.latency_bound:
            return map(self.get, paths)
        return _ahead(self.get, paths, SMALL_READS)

    def exists(self, path: str) -> bool:
        return self.stat(path) is not None

    def stat(self, path: str) -> Entry | None:
        """Size and age of an object, None when there is none."""
        return self._call(self.backend.stat, check_path(path))

    def list(self, folder: str = "") -> list[str]:
        """The paths of every object below `folder`, sorted."""
        return [entry.path for entry in self.entries(folder)]

    def entries(self, folder: str = "") -> Entries:
        """`list`, with sizes and ages."""
        folder = folder.rstrip("/")
        return self._call(self.backend.list, check_path(folder) if folder else "")

    def put(self, path: str, data: bytes) -> None:
        """Store an immutable object; nothing to do when it is there with these bytes."""
        entry = self.stat(path)
        if entry is not None:
            with suppress(StoreMissing):  # quarantined by a reader meanwhile
                if entry.size_bytes == len(data) and self.get(path) == data:
                    self._call(self.backend.sync, path)
                    return
                self.quarantine(path, unless=sha256_hex(data))
        self._call(self.backend.write, path, data)

    def replace(self, path: str, data: bytes) -> None:
        """Overwrite an object in one piece: for the few that are not immutable, like a lease."""
        self._call(self.backend.write, check_path(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Store an object if there is none; False when one with other bytes is there."""
        won = self._call(self.backend.create, check_path(path), data)
        if won and self.conditional_writes():
            return True
        mine = self.get(path) == data
        if mine:
            self._call(self.backend.sync, path)
        return mine

    def conditional_writes(self) -> bool:
        """Whether `create` is exclusive here, found by trying it once."""
        return self._call(self.backend.create_is_exclusive)

    def delete(self, path: str) -> None:
        """Remove an object; removing what is not there is fine."""
        self._call(self.backend.delete, check_path(path))

    def delete_listed(self, entry: Entry) -> None:
        """Remove an object that `entries` named, though no object of this project may be called
        so."""
        self._call(self.backend.delete, entry.path)

    def quarantine(self, path: str, *, unless: str | None = None) -> str | None:
        """Move an object out of the way, for a person to look at, and return its new path.

        With `unless`, an object that has this sha256 stays (None is returned): it was repaired by
        someone else since the caller looked.
        """
        sha256 = self.hash_of(path)
        if sha256 == unless:
            return None
        target = f"quarantine/{path}/{sha256[:16]}"
        self._call(self.backend.move, path, target)
        if unless is not None and self.hash_of(target) == unless:
            self._call(self.backend.move, target, path)
            return None
        self._say(f"{self.url}: {path} is corrupt; moved to {target}")
        return target

    def hash_of(self, path: str, moved: Callable[[], None] = lambda: None) -> str:
        """The sha256 of an object's bytes, in constant memory."""
        digest = hashlib.sha256()
        for part in self._parts(path):
            digest.update(part)
            moved()
        return digest.hexdigest()

    def _parts(self, path: str) -> Iterator[bytes]:
        entry = self.stat(path)
        if entry is None:
            raise StoreMissing(f"{self.url}: no object {path}")
        starts = range(0, entry.size_bytes, self.part_bytes)
        if len(starts) <= 1:
            return iter((self.get(path),))

        def part(start: int) -> bytes:
            end = min(start + self.part_bytes, entry.size_bytes)
            data = self._call(self.backend.read, path, start, end)
            if len(data) != end - start:
                raise CorruptObject(
                    f"{self.url}: {path} changed or was truncated while it was read"
                )
            return data

        return _ahead(part, starts, PARALLEL_READS)

    def put_file(
        self, path: str, source: Path, sha256: str, moved: Callable[[], None] = lambda: None
    ) -> None:
        """`put`, from a file that may be larger than memory and whose hash is known. moved: called
        whenever a part of it is there."""
        check_path(path)
        if self.exists(path):
            with suppress(StoreMissing):
                if self.hash_of(path, moved) == sha256:
                    self._call(self.backend.sync, path)
                    return
                self.quarantine(path, unless=sha256)

        def attempt(action: Callable[..., Result], *args: Any) -> Result:
            result = self._call(action, *args)
            moved()
            return result

        self.backend.upload(path, source, attempt)

    def get_file(self, path: str, target: Path, moved: Callable[[], None] = lambda: None) -> str:
        """Write an object into the file `target` and return the sha256 of what was written. moved:
        called whenever a part of it is there."""
        digest = hashlib.sha256()
        with open(target, "wb") as file:
            for part in self._parts(check_path(path)):
                digest.update(part)
                file.write(part)
                moved()
        return digest.hexdigest()


def _ahead(
    action: Callable[[Item], Result], items: Iterable[Item], window: int
) -> Iterator[Result]:
    """`map(action, items)` with up to `window` calls running ahead of the consumer."""
    with ThreadPoolExecutor(window) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for item in items:
                running.append(pool.submit(action, item))
                if len(running) >= window:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


# "s3:/bucket" and "s3:bucket" would be folders of that name, "s3//bucket" one in "s3".
_ALMOST_URL = re.compile(r"\s*(s3|memory|file|gs|https?)(?::(?!//)/?|//|;//?)", re.IGNORECASE)


def open_store(
    url: str | Path,
    patience_s: float = 300.0,
    *,
    say: Callable[[str], None] = _log.warning,
) -> Store:
    """The store at a folder, `s3://bucket/prefix` or `memory://name`.

    `memory://name` is the same store for every caller in this process, `memory://` a new one.

    Raises:
        BadConfig: for a URL of another kind, or one that holds credentials.
    """
    text = str(url)
    if almost := _ALMOST_URL.match(text):
        # what follows is not echoed: it may be a key
        raise BadConfig(
            f"store: {almost[0].strip()}… is no URL, a slash (or the colon) is missing: write "
            f"{almost[1].lower()}://…, as in s3://bucket/prefix"
        )
    scheme, separator, rest = text.partition("://")
    if not separator or scheme == "file":
        folder = Path(rest if separator else text).expanduser()
        return Store(LocalBackend(folder), patience_s=patience_s, say=say)
    if scheme == "memory":
        backend = _memory.setdefault(rest, MemoryBackend(text)) if rest else MemoryBackend(text)
        return Store(backend, patience_s=patience_s, say=say)
    if scheme != "s3":
        raise BadConfig(f"store: {scheme}:// is not known; use a folder, s3://… or memory://…")
    bucket, _, prefix = rest.partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        # not echoed: what stands here may be a key
        raise BadConfig(
            "store: write s3://bucket/prefix, with a bucket of 3 to 63 lower-case letters, digits, "
            "dots and hyphens. Credentials never stand in the URL: they come from the standard AWS "
            "chain, and another server's address from AWS_ENDPOINT_URL."
        )
    if prefix.strip("/"):
        check_path(prefix.strip("/"))
    return Store(S3Backend(bucket, prefix), patience_s=patience_s, say=say)


def check_writable(store: Store) -> None:
    """Write, read and delete a small object, so that a job fails before it starts anything.

    Raises:
        BadConfig: naming the store and what it said.
    """
    path = f"probe/{secrets.token_hex(8)}"
    try:
        store.replace(path, b"may I write?")
        store.get(path)
        store.delete(path)
    except StoreError as error:
        raise BadConfig(f"the store {store.url} cannot be used: {error}") from error
