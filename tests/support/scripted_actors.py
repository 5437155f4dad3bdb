"""A pool's actors without Ray: scripted engines, a cluster with so much room, and a clock.

They satisfy `actors.supervision.ray_actors.Actors`. Time passes only when the pool waits: an answer
comes at its second, and until then nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.supervision.failures import CallResult
from actors.supervision.pool import Pool, PoolSettings
from actors.supervision.ray_actors import ActorLost, Launched

Answer = Callable[[Any], CallResult]
"""What an engine does with work: gives a result, or raises ActorLost."""


@dataclass(frozen=True)
class Piece:
    """Work with a name."""

    key: str


@dataclass(eq=False)
class Call:
    """A call of an actor: what it gives, from `at` on."""

    launched: Launched
    method: str
    work: Any
    at: float
    answer: Any = None


def done(work: Any) -> CallResult:
    return CallResult(getattr(work, "key", None))


@dataclass
class Engines:
    """How scripted engines behave, and what became of them.

    room: actors that the cluster holds. start, run: what an engine does; start_s, run_s: for how
    long. gone: nodes whose actors do not answer, which the cluster knows from `found_out` on.
    """

    room: int = 100
    start: Answer = done
    run: Answer = done
    start_s: float = 5.0
    run_s: float = 10.0
    nodes: Callable[[int], str] = lambda number: f"node-{number}"
    draining: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    found_out: float = 0.0
    now: float = 0.0
    launched: list[Launched] = field(default_factory=list)
    starts: int = 0
    runs: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def placed(self) -> list[Launched]:
        return self.launched[: self.room]


class ScriptedActors:
    """The actors of one pool over scripted engines."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._number = 0
        self.args = ()

    def launch(self) -> Launched:
        launched = Launched(self._number)
        self._number += 1
        self._engines.launched.append(launched)
        return launched

    def locate(self, launched: Launched) -> Call:
        return self._add(launched, "locate", None, 0.0)

    def call(self, launched: Launched, method: str, *args: Any) -> Call:
        seconds = {"start": self._engines.start_s, "run": self._engines.run_s}.get(method, 0.0)
        work = args[0] if args else None
        if isinstance(work, Piece) and method == "run":
            self._engines.runs.append(work.key)
        return self._add(launched, method, work, seconds)

    def _add(self, launched: Launched, method: str, work: Any, seconds: float) -> Call:
        call = Call(launched, method, work, self._engines.now + seconds)
        self._engines.calls.append(call)
        return call

    def ended(self, references: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Time goes on to the first answer, or by the timeout."""
        end = self._engines.now + timeout_s
        times = [each.at for each in references if self._answers(each) and each.at <= end]
        self._engines.now = max(self._engines.now, min(times, default=end))
        return [each for each in references if self._answers(each) and each.at <= self._engines.now]

    def _answers(self, call: Call) -> bool:
        return call.launched in self._engines.placed()

    def value(self, launched: Launched, reference: Call) -> Any:
        engines = self._engines
        if engines.nodes(launched.actor) in engines.gone:
            known = self.gone(launched)
            raise ActorLost("it does not answer", node_gone=known, unreachable=not known)
        if reference.method == "locate":
            return engines.nodes(launched.actor)
        if reference.method == "progress":
            return int(engines.now * 1000), "scripted"
        if reference.method == "start":
            engines.starts += 1
            return engines.start(reference.work)
        return engines.run(reference.work)

    def gone(self, launched: Launched) -> bool:
        engines = self._engines
        return engines.now >= engines.found_out and engines.nodes(launched.actor) in engines.gone

    def has_room(self, launched: Launched) -> bool:
        return launched in self._engines.placed()

    def free(self) -> str:
        return f"{max(0, self._engines.room - len(self._engines.launched))} scripted ones"

    def leaving(self) -> frozenset[str]:
        return frozenset(self._engines.draining)

    def end(self, launched: Launched) -> None:
        self._engines.launched.remove(launched)


def scripted_pool(engines: Engines, settings: PoolSettings, said: list[str]) -> Pool:
    """A pool over scripted engines, by their clock."""
    return Pool(
        object,
        [],
        settings,
        say=said.append,
        clock=engines.clock,
        runtime=lambda actor, args, options: ScriptedActors(engines),
    )
