"""What the learner is told and what it answers: settings, rows, schedule and metrics.

Nothing here depends on how many ranks there are: the learning rate is a function of the optimizer
step alone, and merging the reports of any number of ranks gives the metrics of one batch stream.

Axes: S optimizer steps, T tokens of a response.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.config.schema import Config
from pipeline.errors import BadConfig

Precision = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "linear", "cosine"]
Objective = Literal["tokens", "steps"]
StepLoss = Literal["bce", "mse"]


@dataclass(frozen=True)
class LearnSettings:
    """Everything a rank needs to know; `pipeline.config.schema.Learn` is the manual of most fields.

    objective: likelihood of response tokens, or the values of steps through a scalar head
        (`step_loss`: binary cross-entropy or squared error against them).
    inherit: what of a checkpoint is continued: everything, or the master weights alone, with new
        moments and step 0.
    frozen: shell patterns of parameter names that stay as they are ("model.vision_model.*").
    threads: compute threads of a CPU rank; results to the last bit depend on it.
    collective_timeout_s: seconds a rank waits for its peers before it gives up.
    start_s: seconds after which a group that is not up counts as hung; hang_s: seconds without
        progress on any rank after which one that was up does.
    answer_s: seconds that the group's hub, which computes nothing, has for an answer; end_s: that a
        group has to end by itself before it is killed.
    """

    learning_rate: float
    batch_size: int
    micro_batch: int = 8
    window: int = 4096
    schedule: Schedule = "constant"
    schedule_rise: int = 0
    schedule_steps: int | None = None
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: Precision = "float32"
    ranks: int = 1
    zero_stage: Literal[1, 2, 3] = 1
    gradient_checkpointing: bool = False
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
    collective_timeout_s: int = 600
    start_s: float = 900.0
    hang_s: float = 600.0
    answer_s: float = 60.0
    end_s: float = 15.0

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise BadConfig(
                f"learn.precision = {self.precision}: the learner takes float32 or bfloat16"
            )

    @classmethod
    def of(cls, config: Config, *, learning_rate: float | None = None) -> LearnSettings:
        """The settings of a run; `learning_rate` replaces the evolution's (a job has its own)."""
        learn, cluster = config.learn, config.cluster
        return cls(
            learning_rate=learning_rate or learn.learning_rate,
            batch_size=learn.batch_size,
            micro_batch=learn.micro_batch,
            window=learn.window,
            schedule=learn.schedule,
            schedule_rise=learn.schedule_rise,
            schedule_steps=learn.schedule_steps,
            beta1=learn.beta1,
            beta2=learn.beta2,
            epsilon=learn.epsilon,
            weight_decay=learn.weight_decay,
            max_grad_norm=learn.max_grad_norm,
            precision=learn.precision,
            ranks=learn.ranks,
            zero_stage=learn.zero_stage,
            gradient_checkpointing=learn.gradient_checkpointing,
            seed=config.run.seed,
            deterministic=config.run.deterministic,
            threads=cluster.rank_threads,
            cpus_per_rank=cluster.cpus_per_rank,
            gpus_per_rank=cluster.gpus_per_rank,
            rank_resource=cluster.rank_resource,
            collective_timeout_s=learn.collective_timeout_s,
            start_s=learn.start_s,
            hang_s=learn.hang_s,
            answer_s=learn.answer_s,
            end_s=learn.end_s,
        )


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


def learning_rate_at(step: int, settings: LearnSettings, span: Span | None = None) -> float:
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


def _left(schedule: Schedule, done: float) -> float:
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
