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
    frozen: shell patterns of parameter names that stay as they are ("model.vision_model.*").
    threads: compute threads of a CPU rank; results to the last bit depend on it.
    collective_timeout_s: seconds a rank waits for its peers before it gives up.
    start_s: seconds after which a group that is not up counts as hung; hang_s: seconds without
        progress on any rank after which one that was up does.
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
    frozen: tuple[str, ...] = ()
    seed: int = 0
    deterministic: bool = False
    threads: int = 1
    cpus_per_rank: float = 1.0
    gpus_per_rank: float = 0.0
    collective_timeout_s: int = 600
    start_s: float = 900.0
    hang_s: float = 600.0

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise BadConfig(
                f"learn.precision = {self.precision}: the learner takes float32 or bfloat16"
            )
        if self.schedule != "constant" and self.schedule_steps is None:
            raise BadConfig(f"learn.schedule = {self.schedule} needs learn.schedule_steps")

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
        )


def learning_rate_at(step: int, settings: LearnSettings) -> float:
    """The learning rate of optimizer step `step`, counted from 0 over all iterations."""
    peak, rise = settings.learning_rate, settings.schedule_rise
    if step < rise:
        return peak * (step + 1) / rise
    if settings.schedule == "constant" or settings.schedule_steps is None:
        return peak
    done = min(1.0, (step - rise) / max(1, settings.schedule_steps - rise))
    if settings.schedule == "linear":
        return peak * (1.0 - done)
    return peak * 0.5 * (1.0 + math.cos(math.pi * done))
