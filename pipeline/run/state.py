"""What a run has done, as a fold over its ledger: replaying the events gives all of it.

`State.apply` is the only thing that changes a state. It takes events (`pipeline.run.events`) in
ledger order, is deterministic, reads no clock and no store. What is only needed while a stage is
open is dropped when the stage closes, so the state of a long run stays small: the ledger keeps the
rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pipeline.refs import CheckpointRef, PolicyRef

GREEDY, SAMPLED = "greedy", "sampled"


class Folds(Protocol):
    """What a state asks of an event (`pipeline.run.events.event.Event`)."""

    @property
    def stage(self) -> str: ...
    @property
    def at(self) -> float: ...
    @property
    def restarts_clock(self) -> bool: ...
    def fold(self, state: State) -> None: ...


@dataclass
class ShardState:
    """How far one shard of an open purpose has come: accepted, then graded (and selected from).

    bad: queries without rows. (Those whose answers could not be graded have rows, but no grades.)
    classes, truth, votes: of unlabelled queries, as of a `GradeDone`.
    """

    key: str
    rollout: str
    rows: int
    tokens: int
    bad: tuple[str, ...] = ()
    adopted: bool = False
    grades: str | None = None
    selected: str | None = None
    coverage: dict[str, int] = field(default_factory=dict)
    scores: str | None = None
    choice: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    classes: str = ""
    truth: dict[str, list[int]] = field(default_factory=dict)
    votes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Nothing is left to do for it."""
        return self.grades is not None


@dataclass
class JobState:
    """One learning job: its last checkpoint inside, then what it gave."""

    key: str = ""
    checkpoint: CheckpointRef | None = None
    policy: PolicyRef | None = None
    steps: int = 0
    done: bool = False
    report: dict[str, Any] = field(default_factory=dict)


@dataclass
class State:
    """Everything the driver needs to know what comes next."""

    config: dict[str, Any] | None = None
    config_hash: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    policies: dict[str, PolicyRef] = field(default_factory=dict)
    shards: dict[str, dict[int, ShardState]] = field(default_factory=dict)
    closed: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, JobState] = field(default_factory=dict)
    warmup: str | None = None
    labels: dict[str, Any] | None = None
    prm: dict[str, Any] | None = None
    iterations: list[dict[str, Any]] = field(default_factory=list)
    bad_queries: dict[str, str] = field(default_factory=dict)
    retired: list[str] = field(default_factory=list)
    stage_s: dict[str, float] = field(default_factory=dict)
    finished: dict[str, Any] | None = None
    last_at: float = 0.0
    job_rule: int = 0
    temperatures: list[dict[str, Any]] = field(default_factory=list)
    dynamics: list[dict[str, Any]] = field(default_factory=list)

    def apply(self, event: Folds) -> None:
        """Fold one event in."""
        if event.restarts_clock:
            self.last_at = 0.0  # each driver counts from its own start
        if event.stage:
            passed = max(0.0, event.at - self.last_at)
            self.stage_s[event.stage] = self.stage_s.get(event.stage, 0.0) + passed
            self.last_at = event.at
        event.fold(self)

    # -- questions ------------------------------------------------------------------------------

    def evaluation(self, policy: PolicyRef, split: str, mode: str) -> dict[str, Any] | None:
        """A policy's figures on a split, by its content: two names of one policy share them."""
        return self.evaluations.get(evaluation_key(policy.version, split, mode))

    def greedy(self, policy: PolicyRef, split: str) -> float:
        """Greedy accuracy, a share; it must have been evaluated."""
        result = self.evaluations[evaluation_key(policy.version, split, GREEDY)]
        return float(result["greedy"])

    def job_done(self, name: str) -> bool:
        """Has this job given its policy?"""
        return name in self.jobs and self.jobs[name].done

    # -- a plain form, for snapshots ------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form; `from_dict` gives the same state back."""
        return asdict(self) | {
            "shards": {
                purpose: [[index, asdict(shard)] for index, shard in sorted(shards.items())]
                for purpose, shards in self.shards.items()
            }
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> State:
        """The state that `to_dict` described."""
        state = cls(**dict(plain))
        state.policies = {name: PolicyRef(**ref) for name, ref in plain["policies"].items()}
        state.shards = {
            purpose: {index: _shard(shard) for index, shard in shards}
            for purpose, shards in plain["shards"].items()
        }
        state.jobs = {name: _job(job) for name, job in plain["jobs"].items()}
        return state


def _shard(plain: Mapping[str, Any]) -> ShardState:
    return ShardState(**{**plain, "bad": tuple(plain["bad"])})


def _job(plain: Mapping[str, Any]) -> JobState:
    checkpoint, policy = plain["checkpoint"], plain["policy"]
    return JobState(
        **{
            **plain,
            "checkpoint": CheckpointRef(**checkpoint) if checkpoint else None,
            "policy": PolicyRef(**policy) if policy else None,
        }
    )


def evaluation_key(version: str, split: str, mode: str) -> str:
    """Under which name the state holds the figures of a policy on a split."""
    return f"{version}|{split}|{mode}"
