"""References: a policy's folder, a learner's checkpoint, a set of shards of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PolicyRef:
    """An immutable, complete model folder in the store.

    version: "policy-" and 16 hex digits of the hash of its manifest; path: prefix in the store.
    """

    version: str
    path: str


@dataclass(frozen=True)
class CheckpointRef:
    """Everything the learner needs to go on: weights, moments, schedule, RNG, cursor.

    path: prefix in the store; sha256: of its manifest. job, cursor: after how many steps of which
    job it was taken; step: optimizer steps since the optimizer was made. nats, tokens: summed loss
    and response tokens of the job so far, and logprob_deviation: what its first batch was measured
    to deviate by (see `LearnDone`), so that a job that was interrupted still reports all of itself.
    """

    path: str
    sha256: str
    job: str
    cursor: int
    step: int
    nats: float = 0.0
    tokens: int = 0
    logprob_deviation: float | None = None


class ShardSet(str):
    """Shards that are sampled for one end and closed together, by name: what a ledger calls their
    `purpose`, and what the state of a run keeps them under.

    `ShardSet("evolve", 3)` is "evolve/3". A phase is "warmup", "evolve" and "unlabelled" (labelled
    and unlabelled queries of the evolution, numbered by iteration),
    "prm/rollouts", "prm/values" (numbered by round of completions),
    "evaluate/<policy version>/<split>/<mode>" or
    "explore/<policy version>/<queries>/T<temperature>-K<samples>" (or "…/greedy"). It is a string,
    so that JSON, keys of a state and a ledger's bytes hold the name itself; the only place that
    takes one apart is here.
    """

    __slots__ = ()

    def __new__(cls, phase: str, number: int | None = None) -> ShardSet:
        """The set of this name, or of this phase and number."""
        return super().__new__(cls, phase if number is None else f"{phase}/{number}")

    @property
    def number(self) -> int | None:
        """Which iteration or round it belongs to; None for a phase that has no number."""
        last = self.rpartition("/")[2]
        return int(last) if last.isdecimal() else None

    @property
    def phase(self) -> str:
        """Its name without the number."""
        return str(self) if self.number is None else self.rpartition("/")[0]

    @property
    def is_round(self) -> bool:
        """Whether it is one round of the completions that give steps their values."""
        return self.phase == PRM_VALUES and self.number is not None

    @property
    def of_prm(self) -> bool:
        """Whether a process reward model is built of it."""
        return self.startswith("prm/")

    @property
    def of_evaluation(self) -> bool:
        """Whether a policy is evaluated on it: nothing of it is trained on."""
        return self.startswith("evaluate/") or self.of_exploration

    @property
    def of_exploration(self) -> bool:
        """Whether it holds samples of validation questions at one of several temperatures."""
        return self.startswith("explore/")


PRM_ROLLOUTS, PRM_VALUES = ShardSet("prm/rollouts"), "prm/values"
