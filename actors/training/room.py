"""Room for the learner's ranks: waited for, as long as it takes and telling so, before they start.

A group of ranks that Ray Train places for itself gives up in silence after its start's patience, as
if it had died. So the ranks' bundles are reserved first, by the driver's thread, which polls
nothing but a reference; then the reservation makes way for the ranks.

    learner's thread   asks ────────────────────────► starts the ranks ──► they are up
    driver's thread        reserves … waits, says so ──┘ (others yield until then)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from actors.supervision.failures import Failure, WorkFailed
from actors.supervision.waiting import WaitingNote
from actors.training.source import Source
from pipeline.training.settings import LearnSettings, resources_of_rank

Bundle = dict[str, float]


class Reserved(Protocol):
    """Bundles that were asked for."""

    def ready(self) -> bool:
        """Whether there is room for all of them."""

    def release(self) -> None:
        """Give them back."""


class RayReserved:
    """A placement group."""

    def __init__(self, bundles: list[Bundle]) -> None:
        from ray.util.placement_group import placement_group

        self._group = placement_group(bundles, strategy="PACK")
        self._ready = self._group.ready()

    def ready(self) -> bool:
        import ray

        ended, _ = ray.wait([self._ready], timeout=0)
        return bool(ended)

    def release(self) -> None:
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)


class LearnerRoom:
    """The learner's place in the cluster, as one of the roles that take turns.

    free: what the cluster has free, in words. let_go: ends the ranks once they have nothing to do.
    """

    name = "learner"

    def __init__(
        self,
        free: Callable[[], str],
        say: Callable[[str], None],
        *,
        reserve: Callable[[list[Bundle]], Reserved] = RayReserved,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.let_go: Callable[[], None] = lambda: None
        self._free = free
        self._say = say
        self._reserve = reserve
        self._clock = clock
        self._last = clock()
        self._yielding = False
        self._wanted: list[Bundle] | None = None
        self._granted = threading.Event()
        self._reserved: Reserved | None = None
        self._note = WaitingNote()
        self._closed = False

    # --- for the learner's thread --------------------------------------------------------------

    @contextmanager
    def held(self, settings: LearnSettings) -> Iterator[None]:
        """Wait for the ranks' room, then start them inside of this.

        Raises:
            WorkFailed: the run ends.
        """
        bundle = resources_of_rank(settings)
        self._granted.clear()
        self._wanted = [dict(bundle) for _ in range(settings.ranks)]
        try:
            self._granted.wait()
            if self._closed:
                raise WorkFailed(Failure("infrastructure", "the run ends"))
            yield
        finally:
            self._wanted = None

    def around(self, start: Callable[..., Any]) -> Callable[..., Any]:
        """What starts a group of ranks, once they have room."""

        def begin(settings: LearnSettings, source: Source) -> Any:
            with self.held(settings):
                return start(settings, source)

        return begin

    # --- for the driver's thread ---------------------------------------------------------------

    @property
    def waited_s(self) -> float:
        """Since when the ranks are asked for; 0 once they are up, or when nobody asks."""
        return self._note.waited_s if self._wanted is not None else 0.0

    @property
    def yielding(self) -> bool:
        """Whether it is another role's turn."""
        return self._yielding

    @yielding.setter
    def yielding(self, yields: bool) -> None:
        if yields and not self._yielding:
            self.let_go()
        self._yielding = yields

    def tend(self) -> None:
        """Reserve what is asked for, and say for what and how long it is waited."""
        now = self._clock()
        passed, self._last = now - self._last, now
        wanted = self._wanted
        if wanted is None or self._granted.is_set():
            self._note = self._note if wanted is not None else WaitingNote()
            return
        if self._yielding:
            self._release()
            self._note = WaitingNote()
            return
        self._reserved = self._reserved or self._reserve(wanted)
        say = self._note.passed(passed)
        if self._reserved.ready():
            self._release()
            self._granted.set()
        elif say:
            each = " and ".join(f"{size:g} {key}" for key, size in wanted[0].items())
            self._say(
                f"the learner waits for room, for {self._note.waited_s:.0f} s now: "
                f"{len(wanted)} ranks of {each} each; free are {self._free()}"
            )

    def close(self) -> None:
        """Nobody waits any more."""
        self._closed = True
        self._granted.set()
        self._release()

    def _release(self) -> None:
        if self._reserved is not None:
            self._reserved.release()
            self._reserved = None
