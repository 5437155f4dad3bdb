"""A pool's members and the pieces of work on them, as the pool keeps account of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from actors.supervision.ray_actors import Launched


class Work(Protocol):
    """A piece of work: a frozen dataclass, sent to an actor as it is. `key` names it."""

    @property
    def key(self) -> str: ...


@dataclass
class Task:
    """One piece of work. losses: times that it has to be done again; killed: engines that died when
    they had nothing else to do; deaths: all that died under it. ended: pieces of work that had come
    to an end when it was submitted."""

    order: int
    work: Work
    ended: int
    losses: int = 0
    killed: int = 0
    deaths: int = 0
    not_before: float = 0.0
    begun: float = 0.0

    @property
    def alone(self) -> bool:
        """An engine died under it: it is tried on one that has nothing else."""
        return self.deaths > 0

    def __lt__(self, other: Task) -> bool:
        """Dispatched earlier: what was lost again and again waits for what is fresh, which shows
        whether it is the engines that are broken."""
        return (self.deaths > 1, self.order) < (other.deaths > 1, other.order)


@dataclass(eq=False)
class Member:
    """One actor, or the place where the next one will be.

    locate, start, beat, runs: calls under way. first: what it is started for. count, doing: its
    last answer to `progress`. still_s: seconds since that count moved (starting: since it had room
    to start). idle_s: seconds without work while there was none. due: when to start. unreachable:
    why it does not answer, until it is known whether its node died.
    """

    name: str
    state: Literal["waiting", "starting", "ready"] = "waiting"
    due: float = 0.0
    losses: int = 0
    launched: Launched | None = None
    locate: Any = None
    start: Any = None
    beat: Any = None
    first: Work | None = None
    runs: dict[Any, Task] = field(default_factory=dict)
    placed: bool = False
    count: int = -1
    doing: str = ""
    still_s: float = 0.0
    idle_s: float = 0.0
    asked: float = 0.0
    unreachable: str = ""

    @property
    def actor(self) -> Launched:
        if self.launched is None:
            raise RuntimeError(f"{self.name} has no actor")
        return self.launched

    @property
    def calls(self) -> list[Any]:
        calls = (self.locate, self.start, self.beat, *self.runs)
        return [] if self.unreachable else [each for each in calls if each is not None]
