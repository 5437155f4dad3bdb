"""What the actors of every pool are: something that does a piece of work, and a heartbeat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from actors.supervision.failures import CallResult, call
from actors.supervision.heartbeat import Heartbeat
from pipeline.storage.store import Store


class PoolActor(ABC):
    """A role in a Ray actor: the contract of `actors.supervision.pool`.

    store: the run's. cache: where this node keeps models (`node_cache.cache_place`).
    """

    def __init__(self, store: Store, cache: str | None) -> None:
        self._store = store
        self._cache = cache
        self._beat = Heartbeat()
        self._worker: Any = None

    def start(self, work: Any) -> CallResult:
        """Begin, with what a first piece of work names: one that cannot begin takes no work."""
        return call(self._start, work)

    @abstractmethod
    def _start(self, work: Any) -> Any:
        """Make the `_worker`, whose `run` does a piece of work."""

    def run(self, work: Any) -> CallResult:
        """One piece of work. What breaks raises, and the pool replaces this actor."""
        if self._worker is None:
            raise RuntimeError("run before start")
        return call(self._worker.run, work)

    def progress(self) -> tuple[int, str]:
        """How far the work has moved, and what is being done."""
        return self._beat.read()
