"""Numbers with their uncertainty: accuracies, Pass@k, paired differences and AUCs.

What always holds: every estimate carries the number of questions it rests on and a 95 % interval.
Questions about one image are not independent (one misread digit spoils all of them), so whatever is
bootstrapped resamples whole *groups* of questions that share images, with a seed that is an
argument; two policies are compared on the same questions, in pairs. Nothing is rounded, and an
undefined number raises instead of becoming 0 or NaN.

Axes: Q questions (or other scored items), K samples of a question, G groups, R bootstrap
replicates. Shares and probabilities are in [0, 1], never percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Values = Sequence[float] | npt.NDArray[Any]
Groups = Sequence[Hashable]

REPLICATES = 4000
# Two-sided 95 %: the 0.975 quantile of the standard normal distribution.
Z_95 = 1.959963984540054
# Bounds memory: a block of replicates times groups (or items) holds about this many numbers.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A number, how many questions it rests on, and the 95 % interval around it."""

    value: float
    n: int
    ci95: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] n={self.n}"


# --- single shares ---------------------------------------------------------------------------


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share of `k` in `n` (Wilson 1927, JASA 22:209-212).

    Never leaves [0, 1] and is sensible at 0 and at n, where the usual normal interval is empty.
    It takes the questions as independent.
    """
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"a share needs 0 <= k <= n and n > 0, not k={k}, n={n}")
    share, z2 = k / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends the formula gives 0 and 1 but for rounding.
    return (0.0 if k == 0 else centre - half, 1.0 if k == n else centre + half)


def proportion(hits_Q: Sequence[bool] | npt.NDArray[np.bool_]) -> Estimate:
    """Share of true entries, with its Wilson interval."""
    k, n = int(np.sum(np.asarray(hits_Q, dtype=bool))), len(hits_Q)
    interval = wilson(k, n)
    return Estimate(k / n, n, interval)


# --- over seeds -------------------------------------------------------------------------------


def over_seeds(values_R: Values) -> Estimate:
    """Mean of one number a seed, with Student's t interval: what another seed may give.

    It is about seeds, where a bootstrap of questions is about questions: runs differ by more than
    the questions they are asked (their warm-up, their slices, their draws).

    Raises:
        ValueError: fewer than two seeds, which say nothing about others.
    """
    values = np.asarray(values_R, dtype=float)
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs two seeds or more, not {len(values)}")
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))
    mean = float(values.mean())
    return Estimate(mean, len(values), (mean - half, mean + half))


# --- the bootstrap ---------------------------------------------------------------------------


def bootstrap_by_group(
    values_Q: Values,
    groups_Q: Groups,
    *,
    seed: int,
    reps: int = REPLICATES,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Mean of `values_Q` with a percentile interval that resamples whole groups.

    Args:
        values_Q: one number per question.
        groups_Q: what the questions are dependent through (`accuracy.image_groups`).
        bounds: what the mean can be at all. It is the interval when there is only one group, from
            which nothing can be learned about others; without it, one group raises.
    """
    ones_Q = np.ones(len(values_Q))
    return ratio_by_group(values_Q, ones_Q, groups_Q, seed=seed, reps=reps, bounds=bounds)


def paired_difference(
    a_Q: Values, b_Q: Values, groups_Q: Groups, *, seed: int, reps: int = REPLICATES
) -> Estimate:
    """Mean of `a - b` over the same questions in the same order, both in [0, 1].

    Resampling the differences keeps what the two share (hard images are hard for both), which two
    separate intervals would count as noise.
    """
    same_length(a_Q, b_Q)
    differences_Q = np.asarray(a_Q, dtype=float) - np.asarray(b_Q, dtype=float)
    return bootstrap_by_group(differences_Q, groups_Q, seed=seed, reps=reps, bounds=(-1.0, 1.0))


def ratio_by_group(
    numerator_Q: Values,
    denominator_Q: Values,
    groups_Q: Groups,
    *,
    seed: int,
    reps: int = REPLICATES,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Sum of the numerators over the sum of the denominators, bootstrapped by group.

    Replicates whose denominator is 0 say nothing about the ratio and are left out.
    """
    same_length(numerator_Q, denominator_Q, groups_Q)
    index_Q, count_G = group_index(groups_Q)
    top_G = np.bincount(index_Q, np.asarray(numerator_Q, dtype=float), count_G)
    bottom_G = np.bincount(index_Q, np.asarray(denominator_Q, dtype=float), count_G)
    if bottom_G.sum() == 0:
        raise ValueError("the denominators sum to 0: there is no ratio")

    def replicate(times_R_G: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (times_R_G @ top_G) / (times_R_G @ bottom_G)

    value = float(top_G.sum() / bottom_G.sum())
    interval = percentiles(replicate, count_G, width=count_G, seed=seed, reps=reps, bounds=bounds)
    return Estimate(value, len(groups_Q), interval)


def same_length(*columns: Sequence[Any] | npt.NDArray[Any]) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise ValueError(f"columns must be equally long and not empty, not {lengths}")


def group_index(groups_Q: Groups) -> tuple[npt.NDArray[np.intp], int]:
    """Groups numbered from 0 in order of appearance: the labels themselves do not matter."""
    numbers: dict[Hashable, int] = {}
    index_Q = [numbers.setdefault(group, len(numbers)) for group in groups_Q]
    return np.array(index_Q, dtype=np.intp), len(numbers)


def resamples(count_G: int, width: int, seed: int, reps: int) -> Iterator[Floats]:
    """How often each group is drawn, in blocks of replicates: (R, G), each row summing to G.

    `width` is how many numbers the caller makes of each replicate.
    """
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(width, count_G))
    for start in range(0, reps, block):
        size = min(block, reps - start)
        drawn_R_G = rng.integers(count_G, size=(size, count_G))
        drawn_R_G += count_G * np.arange(size)[:, np.newaxis]
        times = np.bincount(drawn_R_G.ravel(), minlength=size * count_G)
        yield times.reshape(size, count_G).astype(float)


def percentiles(
    replicate: Callable[[Floats], Floats],
    count_G: int,
    *,
    width: int,
    seed: int,
    reps: int,
    bounds: tuple[float, float] | None,
) -> tuple[float, float]:
    """The central 95 % of the finite replicates."""
    if count_G == 1:
        if bounds is None:
            raise ValueError("one group gives no interval: the bootstrap needs at least two")
        return bounds
    values_R = np.concatenate([replicate(t) for t in resamples(count_G, width, seed, reps)])
    values_R = values_R[np.isfinite(values_R)]
    if not len(values_R):
        raise ValueError("no bootstrap replicate is defined: there is too little data")
    low, high = np.quantile(values_R, [0.025, 0.975])
    return float(low), float(high)


def as_json(value: Any) -> Any:
    """Estimates as {value, n, ci95}."""
    if isinstance(value, Estimate):
        return {"value": value.value, "n": value.n, "ci95": list(value.ci95)}
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list) else value
