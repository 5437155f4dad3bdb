"""What the driver asks of the world, and what the world answers: the only ways out of it.

Three protocols, all of one shape: `submit` hands over a piece of work and returns at once, `poll`
returns what has become ready since, in any order, perhaps twice, perhaps never (then the piece is
submitted again by the next driver). A piece of work names its inputs by store path and its answer
names what it made by store path; no bytes pass through the driver.

Failures come back as values, already told apart where that was possible: what is the fleet's fault
has been retried by it and comes here only when it gave up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from pipeline.canonical import canonical_json, key_of, sha256_hex
from pipeline.plan import PromptKind, ShardSpec
from pipeline.query import Query
from pipeline.rewards import Aggregate
from pipeline.select import Coverage, Rule


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


# --- generation --------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadQuery:
    """A query that fails for a reason of its own, on any machine."""

    query: str
    reason: str


@dataclass(frozen=True)
class ShardDone:
    """A rollout shard lies in the store. Rows of bad queries are not in it."""

    key: str
    rollout: str
    rows: int
    tokens: int
    seconds: float
    engine: str = ""
    bad: tuple[BadQuery, ...] = ()


@dataclass(frozen=True)
class ShardFailed:
    """The fleet gave a shard up.

    infrastructure: every attempt met another dead or broken engine. lost: an object that it reads
    (`path`: an image, the policy) is corrupt or gone. refused: the store says no. user: the reason
    says what a person has to mend.
    """

    key: str
    reason: str
    kind: Literal["infrastructure", "lost", "refused", "user"] = "infrastructure"
    path: str = ""


class Fleet(Protocol):
    """Engines, however many and wherever."""

    def submit(self, spec: ShardSpec, policy: PolicyRef) -> None:
        """Generate this shard. Submitting a key that is under way does nothing."""

    def poll(self) -> Sequence[ShardDone | ShardFailed]:
        """What has ended since the last call."""


# --- grading and selection ---------------------------------------------------------------------


@dataclass(frozen=True)
class GradeTask:
    """Grade one rollout shard and, with a rule, select from it.

    queries_Q: the shard's queries without its bad ones; samples: rows of each (of completions, by
    query). seed: the run's.
    """

    key: str
    rollout: str
    queries_Q: tuple[Query, ...]
    samples: int | Mapping[str, int]
    prompt: PromptKind
    rule: Rule | None
    seed: int


@dataclass(frozen=True)
class GradeDone:
    """Grades, and the selection where a rule was given, lie in the store. Rows of bad queries (of
    which some answer could not be graded) are in neither. choice: as of a `ScoreDone`."""

    key: str
    rollout: str
    grades: str
    selected: str | None
    coverage: Coverage
    seconds: float
    bad: tuple[BadQuery, ...] = ()
    choice: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectLost:
    """An object that a piece of work had to read is corrupt or gone."""

    key: str
    path: str
    reason: str


class Grader(Protocol):
    """Grading processes."""

    def submit(self, task: GradeTask) -> None:
        """Grade this shard. Submitting a key that is under way does nothing."""

    def poll(self) -> Sequence[GradeDone | ObjectLost]:
        """What has ended since the last call."""


# --- scoring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scoring:
    """What a process reward model scores of a graded shard.

    which: "right", the distinct right responses that ended by themselves; "all", every distinct
    response; or the samples themselves, as (query, sample index).
    """

    prm: PolicyRef
    which: Literal["right", "all"] | tuple[tuple[str, int], ...]
    aggregate: Aggregate


@dataclass(frozen=True)
class ScoreTask:
    """Score a graded rollout shard and, with a rule, select from it."""

    key: str
    rollout: str
    grades: str
    queries_Q: tuple[Query, ...]
    prompt: PromptKind
    scoring: Scoring
    rule: Rule | None
    seed: int


@dataclass(frozen=True)
class ScoreDone:
    """Scores, and the selection where a rule was given, lie in the store.

    excluded: responses without a score by reason. choice: what of those that could be kept was
    (`pipeline.select.choice_report`).
    """

    key: str
    rollout: str
    scores: str
    selected: str | None
    coverage: Coverage | None
    excluded: dict[str, int]
    choice: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class ScoreFailed:
    """The scorers gave a shard up; kinds and path as of a `ShardFailed`."""

    key: str
    reason: str
    kind: Literal["infrastructure", "lost", "refused", "user"] = "infrastructure"
    path: str = ""


class Scorer(Protocol):
    """Process reward models, however many and wherever."""

    def submit(self, task: ScoreTask) -> None:
        """Score this shard. Submitting a key that is under way does nothing."""

    def poll(self) -> Sequence[ScoreDone | ScoreFailed]:
        """What has ended since the last call."""


# --- learning ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrmLearning:
    """How a process reward model learns; see `pipeline.settings.Prm`."""

    labels: Literal["soft", "hard"]
    loss: Literal["bce", "mse"]
    frozen: tuple[str, ...]
    surprise: bool = False


@dataclass(frozen=True)
class LearnJob:
    """One stretch of training: a pure function from a start and rows to a checkpoint and a policy.

    name: "evolve/3". start: the checkpoint that is continued, moments and schedule included; None:
    the weights of `policy` with a new optimizer. policy: what the rows were sampled from, which is
    also what the start's weights are when `check_logprobs` asks for the comparison of the first
    batch with the engine's log-probabilities (drawn at `temperature` and `top_p`).
    data: paths of selections, in plan order. epochs, max_steps: training stops at whichever comes
    first; one may be None. seed: root of the shuffles. prm: None for a policy; for a process reward
    model how it learns from step values, which `data` then are.
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

    @property
    def key(self) -> str:
        """Identity of the job: equal keys train the same."""
        plain = asdict(self)
        if plain["start"] is not None:
            del plain["start"]["logprob_deviation"]  # of an earlier job, and it changes nothing
        return key_of("learn", plain)

    def epoch_seed(self, epoch: int) -> int:
        """Seed of one epoch's shuffle, 62 bits."""
        return int(sha256_hex(canonical_json([self.seed, self.name, epoch]))[:16], 16) >> 2

    def to_dict(self) -> dict[str, Any]:
        """Plain form for the ledger."""
        return asdict(self)


@dataclass(frozen=True)
class LearnProgress:
    """For people: `steps_total` is 0 and `loss` None while unknown."""

    job: str
    steps: int
    steps_total: int
    loss: float | None
    tokens: int


@dataclass(frozen=True)
class LearnSaved:
    """A checkpoint inside a job is complete in the store; the job goes on."""

    job: str
    checkpoint: CheckpointRef


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
    lost: an object (`path`) is corrupt or gone. guard: going on would train on something wrong.
    """

    job: str
    kind: Literal["infrastructure", "lost", "guard"]
    reason: str
    path: str = ""


LearnEvent = LearnProgress | LearnSaved | LearnDone | LearnFailed


class Learner(Protocol):
    """The learner group. It stays alive between jobs and continues in place where it can."""

    def submit(self, job: LearnJob, resume: CheckpointRef | None) -> None:
        """Run this job, from `resume` (a checkpoint taken inside it) when there is one."""

    def poll(self) -> Sequence[LearnEvent]:
        """What has happened since the last call, in order."""


# --- looking on ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How far a stage has come, in `unit`s; `total` is 0 while unknown."""

    stage: str
    done: int
    total: int
    unit: str
    note: str = ""


class Watch(Protocol):
    """Who looks on: a console, TensorBoard, a test. Changes nothing."""

    def event(self, event: Mapping[str, Any], state: Any) -> None:
        """An event was committed and folded into the `State`."""

    def progress(self, progress: Progress) -> None:
        """Something moved."""

    def say(self, text: str) -> None:
        """A line for a person."""


def cannot_repair(path: str) -> bool:
    """Nothing outside the store holds a copy."""
    return False


@dataclass(frozen=True)
class World:
    """The roles of one run.

    repair: puts an object that is corrupt or gone into the store again, from a copy elsewhere (an
    image of the data set, the base policy's folder); False when there is none.
    check: asked while nothing is ready. Raises RunStopped where nothing can ever be again.
    """

    fleet: Fleet
    grader: Grader
    learner: Learner
    scorer: Scorer | None = None
    # What gives the decoder of a policy's tokens, for where steps end.
    decoder: Callable[[PolicyRef], Callable[[Sequence[int]], str]] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    repair: Callable[[str], bool] = cannot_repair
    check: Callable[[], None] = lambda: None
