"""Events of a run as a whole: created, taken up by a driver, an iteration closed, finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.refs import PolicyRef, ShardSet
from pipeline.run.events.event import Event
from pipeline.run.state import State


@dataclass(frozen=True)
class RunCreated(Event):
    """The first event: what the run is. queries: where its queries lie in the store; data: the
    fingerprint that a resumed run must share; versions: of the libraries that produced it;
    job_rule: by which its learning jobs have their keys (`pipeline.training.job`)."""

    type = "run_created"
    LATER = ("job_rule",)
    restarts_clock = True
    COMPARED = ("data", "queries")

    config: dict[str, Any]
    config_hash: str
    data: dict[str, Any]
    queries: str
    versions: dict[str, str]
    job_rule: int = 0

    def fold(self, state: State) -> None:
        state.job_rule = self.job_rule
        state.config = dict(self.config)
        state.config_hash = self.config_hash
        state.data = dict(self.data)
        state.versions = dict(self.versions)


@dataclass(frozen=True)
class DriverStarted(Event):
    """A driver has taken the run up. changes: settings that are not those it was created with."""

    type = "driver_started"
    restarts_clock = True

    versions: dict[str, str]
    changes: tuple[str, ...] = ()

    def fold(self, state: State) -> None:
        state.versions = dict(self.versions)


@dataclass(frozen=True)
class PoolResized(Event):
    """A pool of engines or scorers asked for more members, or gave some back, and why. Written at
    each change of size only, and of no meaning to what a run is."""

    type = "pool_resized"

    pool: str
    before: int
    after: int
    reason: str

    def fold(self, state: State) -> None:
        """Nothing follows from it."""


@dataclass(frozen=True)
class PolicyPublished(Event):
    """A model folder of the user's lies in the store, under a name of this run."""

    type = "policy_published"
    COMPARED = ("name", "version", "path")

    name: str
    version: str
    path: str

    def fold(self, state: State) -> None:
        state.policies[self.name] = PolicyRef(self.version, self.path)
        if self.name == "warmup":
            state.warmup = "warmup"


@dataclass(frozen=True)
class IterationClosed(Event):
    """An iteration of the evolution is over; its row of the table."""

    type = "iteration_closed"

    iteration: int
    row: dict[str, Any]

    def fold(self, state: State) -> None:
        state.iterations.append(dict(self.row))
        for pool in ("evolve", "unlabelled"):
            state.shards.pop(ShardSet(pool, self.iteration), None)
        for purpose in [one for one in state.shards if ShardSet(one).of_exploration]:
            # Asked again of the same policy, they are found in the store again.
            del state.shards[purpose]
            state.closed.pop(purpose, None)

    def compared(self) -> dict[str, Any]:
        """Without what depends on the machine: times, and how near engine and learner are."""
        of_machine = ("_s", "logprob_deviation")
        row = {name: value for name, value in self.row.items() if not name.endswith(of_machine)}
        return {"iteration": self.iteration, "row": row}


@dataclass(frozen=True)
class Finished(Event):
    """The run is over. final, control: which policies these are."""

    type = "finished"
    COMPARED = ("final", "control")

    final: str
    control: str | None

    def fold(self, state: State) -> None:
        state.finished = {"final": self.final, "control": self.control}
        state.shards.clear()
