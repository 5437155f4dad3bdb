"""What the learner is told and what it answers: settings, rows, schedule and metrics.

Nothing here depends on how many ranks there are: the learning rate is a function of the optimizer
step alone, and merging the reports of any number of ranks gives the metrics of one batch stream.

Axes: S optimizer steps, T tokens of a response.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config.learning import Learn
from pipeline.config.schema import Config
from pipeline.errors import BadConfig

Objective = Literal["tokens", "steps"]
StepLoss = Literal["bce", "mse"]


class LearnSettings(Learn):
    """Everything a rank needs to know: the section `learn` as a job changes it, and what else.

    objective: likelihood of response tokens, or the values of steps through a scalar head
        (`step_loss`: binary cross-entropy or squared error against them).
    inherit: what of a checkpoint is continued: everything, or the master weights alone, with new
        moments and step 0.
    frozen: shell patterns of parameter names that stay as they are ("model.vision_model.*").
    threads: compute threads of a CPU rank; results to the last bit depend on it.
    trust_remote_code: whether the run lets code of a policy's own be run.
    """

    objective: Objective = "tokens"
    step_loss: StepLoss = "bce"
    inherit: Literal["all", "weights"] = "all"
    frozen: tuple[str, ...] = ()
    seed: int = 0
    deterministic: bool = False
    threads: int = 1
    cpus_per_rank: float = 1.0
    gpus_per_rank: float = 0.0
    rank_resource: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def of(cls, config: Config, **changes: Any) -> LearnSettings:
        """The settings of a run, but for what a job has of its own."""
        cluster = config.cluster
        of_run = {
            "seed": config.run.seed,
            "deterministic": config.run.deterministic,
            "threads": cluster.rank_threads,
            "cpus_per_rank": cluster.cpus_per_rank,
            "gpus_per_rank": cluster.gpus_per_rank,
            "rank_resource": cluster.rank_resource,
            "trust_remote_code": config.policy.trust_remote_code,
        }
        return cls.model_construct(**{**config.learn.model_dump(), **of_run, **changes})


def resources_of_rank(settings: LearnSettings) -> dict[str, float]:
    """What one rank asks of Ray, by the names that Ray has for it."""
    asked = {"CPU": settings.cpus_per_rank, "GPU": settings.gpus_per_rank}
    if settings.rank_resource is not None:
        asked[settings.rank_resource] = 1.0
    return {name: amount for name, amount in asked.items() if amount}


def numerics(config: Config) -> dict[str, object]:
    """What the last bits of a training job depend on besides its meaning and the hardware."""
    learn, cluster = config.learn, config.cluster
    return {
        "deterministic": config.run.deterministic,
        "ranks": learn.ranks,
        "micro_batch": learn.micro_batch,
        "zero_stage": learn.zero_stage,
        "gradient_checkpointing": learn.gradient_checkpointing,
        "rank_threads": cluster.rank_threads,
        "gpus": cluster.gpus_per_rank > 0,
    }


@dataclass(frozen=True)
class Span:
    """The part of a schedule that a job's optimizer steps cover.

    begin, end: shares of the schedule that are over before and after the job. first: its first
    optimizer step, counted over all jobs since the optimizer was made; steps: how many it takes.
    """

    begin: float
    end: float
    first: int
    steps: int

    def done(self, step: int) -> float:
        """Share of the schedule that is over at the beginning of a step."""
        passed = (step - self.first) / max(1, self.steps)
        return min(1.0, self.begin + (self.end - self.begin) * passed)


def learning_rate_at(step: int, settings: Learn, span: Span | None = None) -> float:
    """The learning rate of optimizer step `step`, counted from 0 since the optimizer was made.

    span: where the job stands in the schedule; None: the schedule counts its own steps
    (`schedule_steps`).

    Raises:
        ValueError: a schedule that falls, and nothing that says over how long.
    """
    peak, rise = settings.learning_rate, settings.schedule_rise
    risen = min(1.0, (step + 1) / rise) if rise else 1.0
    if settings.schedule == "constant":
        return peak * risen
    if span is not None:
        return peak * risen * _left(settings.schedule, span.done(step))
    if settings.schedule_steps is None:
        raise ValueError(f"a {settings.schedule} schedule needs to know what it spans")
    if step < rise:
        return peak * risen
    done = min(1.0, (step - rise) / max(1, settings.schedule_steps - rise))
    return peak * _left(settings.schedule, done)


def _left(schedule: str, done: float) -> float:
    """Share of the peak that is left after this share of the schedule."""
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def check_rate(settings: LearnSettings, first: int, steps: int, span: Span | None) -> None:
    """Refuse a job of which some step would change nothing.

    first: its first optimizer step; steps: how many it takes.

    Raises:
        BadConfig: the learning rate is 0 before its end.
    """
    last = first + steps - 1
    if steps and learning_rate_at(last, settings, span) <= 0.0:
        idle = sum(learning_rate_at(step, settings, span) <= 0.0 for step in range(first, last + 1))
        raise BadConfig(
            f"the learning rate is 0 for {idle} of {steps} steps (optimizer steps {first} to "
            f"{last}; learn.schedule = {settings.schedule} ends at step {settings.schedule_steps}):"
            " nothing would be learned there. Begin the run anew with a schedule that spans it "
            "(run.rules=2)"
        )
