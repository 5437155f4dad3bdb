"""Pass@K: the unbiased estimator, by query and on average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.metrics.intervals import (
    REPLICATES,
    Estimate,
    Floats,
    Groups,
    bootstrap_by_group,
    paired_difference,
)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n samples, drawn without replacement, hold one of the c correct ones.

    Averaged over questions it is the unbiased estimate of Pass@k (Chen et al. 2021,
    arXiv 2107.03374, section 2.1); for k = n it is simply whether there is a correct one.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"Pass@k needs 1 <= k <= n and 0 <= c <= n, not n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def pass_at_k_Q(correct_Q_K: Sequence[Sequence[bool]], k: int) -> Floats:
    """`pass_at_k` of each question; K may differ between questions."""
    return np.array([pass_at_k(len(row_K), sum(row_K), k) for row_K in correct_Q_K], dtype=float)


def pass_at_k_mean(
    correct_Q_K: Sequence[Sequence[bool]],
    groups_Q: Groups,
    k: int,
    *,
    seed: int,
    reps: int = REPLICATES,
) -> Estimate:
    """Pass@k over all questions, bootstrapped by group."""
    values_Q = pass_at_k_Q(correct_Q_K, k)
    return bootstrap_by_group(values_Q, groups_Q, seed=seed, reps=reps, bounds=(0.0, 1.0))


def headroom(
    correct_Q_K: Sequence[Sequence[bool]],
    greedy_Q: Sequence[bool],
    groups_Q: Groups,
    k: int,
    *,
    seed: int,
    reps: int = REPLICATES,
) -> Estimate:
    """Pass@k minus greedy accuracy on the same questions (paper section 5): what is left to learn.

    Pass `greedy_Q` of answers and `correct_Q_K` of processes to ask how much *honest* head-room
    there is.
    """
    return paired_difference(pass_at_k_Q(correct_Q_K, k), greedy_Q, groups_Q, seed=seed, reps=reps)
