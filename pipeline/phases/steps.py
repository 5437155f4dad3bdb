"""What a driver can be told to do next, one dataclass each; `pipeline.phases.order` chooses."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.generation.shards import ShardSpec
from pipeline.refs import PolicyRef
from pipeline.selection.rules import Rule
from pipeline.stages.score import Scoring
from pipeline.training.job import LearnJob


@dataclass(frozen=True)
class PublishFolder:
    """Put a model folder of the user's into the store as policy `name`."""

    stage: str
    name: str
    folder: str


@dataclass(frozen=True)
class SampleShards:
    """Generate, grade, (with a PRM) score and (with a rule) select from every shard of a purpose,
    then close it."""

    stage: str
    purpose: str
    specs: tuple[ShardSpec, ...]
    policy: PolicyRef
    rule: Rule | None
    scoring: Scoring | None = None


@dataclass(frozen=True)
class Evaluate:
    """Sum up the graded shards of an evaluation."""

    stage: str
    purpose: str
    policy: PolicyRef
    split: str
    mode: str


@dataclass(frozen=True)
class Train:
    """Run a learning job."""

    stage: str
    job: LearnJob


@dataclass(frozen=True)
class SkipTraining:
    """An iteration that selected nothing leaves the policy as it is."""

    stage: str
    job: str
    policy: PolicyRef


@dataclass(frozen=True)
class ChooseWarmup:
    """Fix which training round of the warm-up is the warm-up policy."""

    stage: str
    name: str


@dataclass(frozen=True)
class CloseIteration:
    """Record an iteration's row and forget its shards."""

    stage: str
    iteration: int


@dataclass(frozen=True)
class Annotate:
    """Choose responses, sample completions from their steps' ends, and store the steps' values."""

    stage: str
    rollouts: str
    policy: PolicyRef


@dataclass(frozen=True)
class JudgePrm:
    """Score the held-out responses, write the PRM's card, and decide whether it is used."""

    stage: str
    rollouts: SampleShards
    prm: PolicyRef


@dataclass(frozen=True)
class Finish:
    """Record which policies are final and control."""

    stage: str
    final: str
    control: str | None


Step = (
    PublishFolder
    | SampleShards
    | Evaluate
    | Train
    | SkipTraining
    | ChooseWarmup
    | CloseIteration
    | Annotate
    | JudgePrm
    | Finish
)
