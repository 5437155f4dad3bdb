"""A learning job, what is heard of it, and the learner's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline.errors import FailureKind
from pipeline.hashing import canonical_json, key_of, sha256_hex
from pipeline.refs import CheckpointRef, PolicyRef
from pipeline.storage.artifacts import hash_in
from pipeline.training.settings import Span


@dataclass(frozen=True)
class LearnDone:
    """The job's checkpoint and policy are complete in the store.

    loss: mean over response tokens of the whole job, nats. logprob_deviation: mean absolute
    difference to the engine on the first batch, nats; None where it was not asked for.
    """

    job: str
    checkpoint: CheckpointRef
    policy: PolicyRef
    steps: int
    rows: int
    tokens: int
    loss: float
    seconds: float
    logprob_deviation: float | None = None


@dataclass(frozen=True)
class LearnFailed:
    """A job ended without its policy.

    infrastructure: a rank died or hung; the job is submitted again from its last checkpoint.
    lost: an object (`path`) is corrupt or gone. Any other kind: it would fail again, and the reason
    says why (training diverged, rows of another prompt, a store that refuses).
    """

    job: str
    kind: FailureKind
    reason: str
    path: str = ""


@dataclass(frozen=True)
class StepPoint:
    """One optimizer step, counted over all jobs of a chain: loss in nats a token, the gradient norm
    before clipping."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float


@dataclass(frozen=True)
class LearnProgress:
    """For people: `steps_total` is 0 and `loss` None while unknown.

    doing: what is going on besides steps. curve: the steps since the last progress that had some.
    """

    job: str
    steps: int
    steps_total: int
    loss: float | None
    tokens: int
    doing: str = ""
    curve: tuple[StepPoint, ...] = ()


@dataclass(frozen=True)
class LearnSaved:
    """A checkpoint inside a job is complete in the store; the job goes on."""

    job: str
    checkpoint: CheckpointRef


LearnEvent = LearnProgress | LearnSaved | LearnDone | LearnFailed


@dataclass(frozen=True)
class PrmLearning:
    """How a process reward model learns; see `pipeline.config.schema.Prm`."""

    labels: Literal["soft", "hard"]
    loss: Literal["bce", "mse"]
    frozen: tuple[str, ...]
    likelihood: bool = False

    @property
    def identity(self) -> dict[str, object]:
        """As the key of a job hashes it, under the names of its rule."""
        return {
            "labels": self.labels,
            "loss": self.loss,
            "frozen": self.frozen,
            "surprise": self.likelihood,
        }


JOB_RULE = 1
"""By which a new run's jobs have their keys.

0: paths and names as they stand, and of the settings only those that differ from job to job: equal
jobs of two runs have two keys. 1: contents, and every setting that decides what is trained: equal
jobs of any runs have one key, and what one run trained another one finds.
"""


@dataclass(frozen=True)
class LearnJob:
    """One stretch of training: a pure function from a start and rows to a checkpoint and a policy.

    name: "evolve/3". start: the checkpoint that is continued, moments and schedule included; None:
    the weights of `policy` with a new optimizer. policy: what the rows were sampled from, which is
    also what the start's weights are when `check_logprobs` asks for the comparison of the first
    batch with the engine's log-probabilities (drawn at `temperature` and `top_p`).
    data: paths of selections, in plan order. epochs, max_steps: training stops at whichever comes
    first; one may be None. seed: root of the shuffles. prm: None for a policy; for a process reward
    model how it learns from step values, which `data` then are. span: shares of the schedule that
    are over before and after the job; None: it is counted in optimizer steps (`schedule_steps`).
    inherit: what of `start` is continued: "all", or its master weights alone, with a new optimizer
    and the schedule from its beginning. weights: the policy whose weights training begins with
    where there is no `start`, if it is not the one that was sampled from. rule: of its key
    (`JOB_RULE`); settings: of the run, as far as they decide what is trained, hashed since rule 1.
    gold: in place of `data`, query and text of responses that nobody sampled, tokenized by the
    policy's processor and ended by its end token.
    """

    name: str
    start: CheckpointRef | None
    policy: PolicyRef
    data: tuple[str, ...]
    seed: int
    epochs: int | None
    max_steps: int | None
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    schedule_rise: int = 0
    schedule_steps: int | None = None
    check_logprobs: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    prm: PrmLearning | None = None
    span: tuple[float, float] | None = None
    inherit: Literal["all", "weights"] = "all"
    weights: PolicyRef | None = None
    rule: int = 0
    settings: tuple[tuple[str, object], ...] = ()
    gold: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """Identity of the job: equal keys train the same.

        What is hashed stands here under the names of its rule: renaming a field moves no key.
        """
        return self._key_by_content() if self.rule else self._key_by_name()

    def _key_by_content(self) -> str:
        return key_of(
            "learn",
            {
                "rule": self.rule,
                "name": self.name,  # of the shuffles' seeds; no run's name is in it
                "start": None if self.start is None else self.start.sha256,
                "step": self.first_step,
                "policy": hash_in(self.policy.path),
                "data": [hash_in(path) for path in self.data],
                "seed": self.seed,
                "epochs": self.epochs,
                "max_steps": self.max_steps,
                "learning_rate": self.learning_rate,
                "schedule": self.schedule,
                "schedule_rise": self.schedule_rise,
                "schedule_steps": self.schedule_steps,
                "span": self.span,
                "check_logprobs": self.check_logprobs,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "prm": None if self.prm is None else self.prm.identity,
                "settings": dict(self.settings),
                **self._begun,
            },
        )

    def _key_by_name(self) -> str:
        spans = {} if self.span is None else {"span": self.span}
        return key_of(
            "learn",
            {
                **spans,
                **self._begun,
                "name": self.name,
                "start": None if self.start is None else _hashed(self.start),
                "policy": {"version": self.policy.version, "path": self.policy.path},
                "data": self.data,
                "seed": self.seed,
                "epochs": self.epochs,
                "max_steps": self.max_steps,
                "learning_rate": self.learning_rate,
                "schedule": self.schedule,
                "schedule_rise": self.schedule_rise,
                "schedule_steps": self.schedule_steps,
                "check_logprobs": self.check_logprobs,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "prm": None if self.prm is None else self.prm.identity,
            },
        )

    @property
    def _begun(self) -> dict[str, object]:
        """How it begins, where not with all of its start or the sampled policy, and what it trains
        on in place of responses; came to keys later."""
        found: dict[str, object] = {}
        if self.inherit != "all":
            found["inherit"] = self.inherit
        if self.weights is not None:
            found["weights"] = hash_in(self.weights.path)
        if self.gold:
            found["gold"] = [list(pair) for pair in self.gold]
        return found

    @property
    def first_step(self) -> int:
        """The optimizer step that it begins with."""
        return 0 if self.start is None or self.inherit == "weights" else self.start.step

    def span_of(self, steps: int) -> Span | None:
        """Where its steps, so many, stand in the schedule."""
        return None if self.span is None else Span(*self.span, self.first_step, steps)

    def epoch_seed(self, epoch: int) -> int:
        """Seed of one epoch's shuffle, 62 bits."""
        return int(sha256_hex(canonical_json([self.seed, self.name, epoch]))[:16], 16) >> 2


def _hashed(start: CheckpointRef) -> dict[str, object]:
    """A job's start as its key hashes it: what an earlier job's first batch was measured by
    (`logprob_deviation`) changes nothing."""
    return {
        "path": start.path,
        "sha256": start.sha256,
        "job": start.job,
        "cursor": start.cursor,
        "step": start.step,
        "nats": start.nats,
        "tokens": start.tokens,
    }


class Learner(Protocol):
    """The learner group. It stays alive between jobs and continues in place where it can."""

    def submit(self, job: LearnJob, resume: CheckpointRef | None) -> None:
        """Run this job, from `resume` (a checkpoint taken inside it) when there is one."""

    def poll(self) -> Sequence[LearnEvent]:
        """What has happened since the last call, in order."""
