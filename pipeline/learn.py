"""What the learner is told and what it answers: settings, rows, schedule and metrics.

Nothing here depends on how many ranks there are: the learning rate is a function of the optimizer
step alone, and merging the reports of any number of ranks gives the metrics of one batch stream.

Axes: S optimizer steps, T tokens of a response.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.canonical import canonical_json, sha256_hex
from pipeline.errors import BadConfig, UserError
from pipeline.settings import Config

Precision = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "linear", "cosine"]
Objective = Literal["tokens", "steps"]
StepLoss = Literal["bce", "mse"]


class TrainingDiverged(UserError):
    """A gradient that is not a finite number: weights and moments are spent."""


def prompt_hash(token_ids: Sequence[int]) -> str:
    """What a row says about its prompt: sha256 of the processor's input ids, placeholders
    expanded. Whoever writes rollouts and whoever trains on them must use this one."""
    return sha256_hex(canonical_json([int(token) for token in token_ids]))


@dataclass(frozen=True)
class TrainRow:
    """One response to train on.

    prompt: chat-templated text, image placeholders not expanded (as in a SampleRequest).
    images: content hashes in prompt order.
    prompt_tokens: tokens of the expanded prompt, so that batches are planned without a processor;
        0 where nobody knows (batches are then balanced by responses alone).
    prompt_sha256: `prompt_hash` of the expanded prompt; the learner refuses a row whose own
        processor gives another one. "" for a prompt that nothing was sampled from (warm-up).
    token_ids_T: the ids that were sampled, end token included; never re-tokenised.
    step_ends_S, targets_S: for a process reward model, where steps end in `token_ids_T` (which then
        holds one token more than the last of them) and what each is worth in [0, 1].
    """

    prompt: str
    images: tuple[str, ...]
    prompt_tokens: int
    prompt_sha256: str
    token_ids_T: tuple[int, ...]
    step_ends_S: tuple[int, ...] = ()
    targets_S: tuple[float, ...] = ()

    @property
    def units(self) -> int:
        """What the loss is a mean over: response tokens, or steps where the row has them."""
        return len(self.step_ends_S) or len(self.token_ids_T)

    @property
    def length(self) -> int:
        """Tokens of prompt and response together."""
        return self.prompt_tokens + len(self.token_ids_T)


@dataclass(frozen=True)
class LearnSettings:
    """Everything a rank needs to know; `pipeline.settings.Learn` is the manual of most fields.

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


@dataclass(frozen=True)
class RankReport:
    """What one rank saw while training.

    nll_S: summed negative log-likelihood, in nats, of this rank's tokens before each step.
    tokens_S, rows_S: response tokens and rows of each whole batch, all ranks together.
    grad_norm_S: global gradient norm before clipping.
    step: optimizer steps since the optimizer was made, these included.
    seconds: from the first row to the last step.
    """

    nll_S: tuple[float, ...]
    tokens_S: tuple[int, ...]
    rows_S: tuple[int, ...]
    grad_norm_S: tuple[float, ...]
    learning_rate: float
    step: int
    seconds: float


@dataclass(frozen=True)
class TrainMetrics:
    """What training on one interval gave.

    loss: nats per response token, each taken before the step it belongs to; loss_S by step.
    tokens: response tokens trained on. seconds: of the slowest rank.
    """

    loss: float
    loss_S: tuple[float, ...]
    steps: int
    step: int
    rows: int
    tokens: int
    grad_norm: float
    grad_norm_max: float
    learning_rate: float
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Response tokens trained on per second of wall time."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def merge(reports: Sequence[RankReport]) -> TrainMetrics:
    """The metrics of a group from the reports of all its ranks."""
    first = reports[0]
    nll_S = [math.fsum(parts) for parts in zip(*(r.nll_S for r in reports), strict=True)]
    tokens, steps = sum(first.tokens_S), len(first.tokens_S)
    return TrainMetrics(
        loss=math.fsum(nll_S) / tokens if tokens else 0.0,
        loss_S=tuple(nll / count for nll, count in zip(nll_S, first.tokens_S, strict=True)),
        steps=steps,
        step=first.step,
        rows=sum(first.rows_S),
        tokens=tokens,
        grad_norm=math.fsum(first.grad_norm_S) / steps if steps else 0.0,
        grad_norm_max=max(first.grad_norm_S, default=0.0),
        learning_rate=first.learning_rate,
        seconds=max(report.seconds for report in reports),
    )


def merge_logprobs(parts: Sequence[Mapping[int, Sequence[float]]]) -> list[tuple[float, ...]]:
    """Log-probabilities by row, from what each rank computed of them."""
    found = {index: tuple(values) for part in parts for index, values in part.items()}
    return [found[index] for index in range(len(found))]
