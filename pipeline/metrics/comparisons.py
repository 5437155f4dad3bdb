"""Comparisons over seeds: paired differences, their p values, and Holm's adjustment of many.

Axes: R seeds, C comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.intervals import Estimate, over_seeds


@dataclass(frozen=True)
class Comparison:
    """The mean of a - b over seeds, its 95 % t interval, and the p value of "no difference"."""

    difference: Estimate
    p: float


def paired_over_seeds(a_R: Mapping[int, float], b_R: Mapping[int, float]) -> Comparison:
    """a - b by seed, with Student's t interval and the two-sided p value of the paired t test.

    What both share (a seed's warm-up, its slices, the test questions) is not counted as noise.
    Where all differences are equal the test has no variance to go by: p is 1 when they are 0, else
    0.

    Raises:
        ValueError: they are not of the same seeds, or of fewer than two.
    """
    if a_R.keys() != b_R.keys():
        raise ValueError(f"seeds {sorted(a_R)} and {sorted(b_R)} are not the same: nothing to pair")
    pairs = [(a_R[seed], b_R[seed]) for seed in sorted(a_R)]
    differences_R = np.array([a - b for a, b in pairs])
    estimate = over_seeds(differences_R)
    if np.ptp(differences_R) < _ROUNDING:
        return Comparison(estimate, 1.0 if abs(estimate.value) < _ROUNDING else 0.0)
    from scipy.stats import ttest_rel

    return Comparison(estimate, float(ttest_rel(*zip(*pairs, strict=True)).pvalue))


# Shares of questions differ by more than this, or not at all.
_ROUNDING = 1e-12


def holm(p_C: Sequence[float]) -> list[float]:
    """p values adjusted for how many there are (Holm 1979, Scand. J. Statist. 6:65-70): comparing
    each with 0.05 keeps the probability of any false finding among all of them below that."""
    adjusted, largest = [0.0] * len(p_C), 0.0
    for rank, index in enumerate(sorted(range(len(p_C)), key=lambda i: p_C[i])):
        largest = max(largest, min(1.0, (len(p_C) - rank) * p_C[index]))
        adjusted[index] = largest
    return adjusted
