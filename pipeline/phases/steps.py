"""Steps: what a phase can ask the driver to do, one frozen dataclass for each verb.

A step holds everything that it is done with, and no behaviour: `pipeline.driver` does it, and the
audit compares a ledger with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.config.schema import DecideBy, SearchedBy
from pipeline.config.selecting import RankedBy
from pipeline.generation.shards import ShardSpec
from pipeline.model_settings import ModelSettings
from pipeline.refs import PolicyRef, ShardSet
from pipeline.run.events.event import Event
from pipeline.selection.pseudo_labels import Voting
from pipeline.selection.rules import Rule
from pipeline.stages.score import Scoring
from pipeline.training.job import LearnJob


@dataclass(frozen=True)
class PublishFolder:
    """Put a model folder of the user's into the store, as the policy of this name."""

    stage: str
    name: str
    folder: str
    settings: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True)
class SampleShards:
    """Generate, grade, (with a PRM) score and (with a rule) select from every shard of a purpose,
    then close it. vote: how the samples of unlabelled queries vote; None: they are labelled."""

    stage: str
    purpose: ShardSet
    specs: tuple[ShardSpec, ...]
    policy: PolicyRef
    rule: Rule | None
    scoring: Scoring | None = None
    vote: Voting | None = None


@dataclass(frozen=True)
class Evaluate:
    """Give the figures of a policy on a split, from the graded shards of its purpose."""

    stage: str
    purpose: ShardSet
    policy: PolicyRef
    split: str
    mode: str


@dataclass(frozen=True)
class ChooseTemperature:
    """Decide which temperature an iteration and those after it are sampled at, from graded shards
    of validation questions. today: the one in force; purposes: the shards of each temperature.
    figure, mode, ranked_by, samples, seed: as of `pipeline.stages.explore.SearchTask`."""

    stage: str
    iteration: int
    policy: PolicyRef
    today: float
    figure: SearchedBy
    mode: DecideBy
    ranked_by: RankedBy | None
    samples: int
    seed: int
    purposes: tuple[tuple[float, ShardSet], ...]


@dataclass(frozen=True)
class EvaluateDynamics:
    """Give the figures of a policy at every temperature, the first of which is 0 (greedy)."""

    stage: str
    iteration: int
    policy: PolicyRef
    ranked_by: RankedBy | None
    purposes: tuple[tuple[float, ShardSet], ...]


@dataclass(frozen=True)
class Train:
    """Run a job of the learner."""

    stage: str
    job: LearnJob


@dataclass(frozen=True)
class Annotate:
    """Choose responses of the purpose `rollouts`, complete their steps, and store the values."""

    stage: str
    rollouts: ShardSet
    policy: PolicyRef


@dataclass(frozen=True)
class JudgePrm:
    """Score the held-out responses, write the PRM's card, and decide whether it is used."""

    stage: str
    rollouts: SampleShards
    prm: PolicyRef


@dataclass(frozen=True)
class Record:
    """Commit an event that follows from the state alone. note: a line for a person."""

    stage: str
    event: Event
    note: str = ""


@dataclass(frozen=True)
class Finish:
    """Record which policies are final and control, once all that compares them is readable."""

    stage: str
    final: str
    control: str | None


Step = (
    PublishFolder
    | SampleShards
    | Evaluate
    | ChooseTemperature
    | EvaluateDynamics
    | Train
    | Annotate
    | JudgePrm
    | Record
    | Finish
)
