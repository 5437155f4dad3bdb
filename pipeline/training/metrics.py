"""What ranks report of a training interval, merged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
    grad_norm_S: global gradient norm before clipping, by step.
    tokens: response tokens trained on. seconds: of the slowest rank.
    """

    loss: float
    loss_S: tuple[float, ...]
    grad_norm_S: tuple[float, ...]
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
        grad_norm_S=first.grad_norm_S,
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
