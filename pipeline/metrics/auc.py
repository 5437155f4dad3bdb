"""Area under the ROC curve, pooled and within groups, with intervals by bootstrap over groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.metrics.intervals import (
    REPLICATES,
    Estimate,
    Floats,
    Groups,
    Values,
    group_index,
    percentiles,
    same_length,
)


def auc(pos: Values, neg: Values) -> float:
    """Probability that a positive scores above a negative, a tie counting 1/2 (Mann-Whitney U)."""
    if not len(pos) or not len(neg):
        raise ValueError(f"an AUC needs both classes, not {len(pos)} and {len(neg)} items")
    pos_A, neg_sorted = np.asarray(pos, dtype=float), np.sort(np.asarray(neg, dtype=float))
    if np.isnan(pos_A).any() or np.isnan(neg_sorted).any():
        raise ValueError("an AUC needs scores, not NaN")
    below = np.searchsorted(neg_sorted, pos_A, side="left")
    not_above = np.searchsorted(neg_sorted, pos_A, side="right")
    return float((below + not_above).sum() / (2.0 * len(pos_A) * len(neg_sorted)))


def auc_by_group(
    scores_Q: Values,
    positive_Q: Sequence[bool] | npt.NDArray[np.bool_],
    groups_Q: Groups,
    *,
    seed: int,
    reps: int = REPLICATES,
    strata_Q: Groups | None = None,
) -> Estimate:
    """AUC of `scores_Q` between positive and negative items, bootstrapped by group.

    With `strata_Q` (families, say) it is the plain mean of the AUCs within each stratum; every
    stratum needs both classes. Groups may cross strata. For an AUC within each *question*, where
    strata are themselves sampled, take `auc` per question and `bootstrap_by_group` over them.
    """
    same_length(scores_Q, positive_Q, groups_Q)
    strata_Q = [0] * len(scores_Q) if strata_Q is None else strata_Q
    same_length(scores_Q, strata_Q)
    scores, positive = np.asarray(scores_Q, dtype=float), np.asarray(positive_Q, dtype=bool)
    index_Q, count_G = group_index(groups_Q)
    stratum_Q, count_S = group_index(strata_Q)
    members_S = [np.flatnonzero(stratum_Q == stratum) for stratum in range(count_S)]
    value = np.mean([auc(scores[m][positive[m]], scores[m][~positive[m]]) for m in members_S])
    weighted_S = [_weighted_auc(scores[m], positive[m], index_Q[m]) for m in members_S]

    def replicate(times_R_G: Floats) -> Floats:
        mean_R: Floats = np.mean([weighted(times_R_G) for weighted in weighted_S], axis=0)
        return mean_R

    interval = percentiles(
        replicate, count_G, width=len(scores), seed=seed, reps=reps, bounds=(0.0, 1.0)
    )
    return Estimate(float(value), len(scores), interval)


def _weighted_auc(
    scores_Q: Floats, positive_Q: npt.NDArray[np.bool_], index_Q: npt.NDArray[np.intp]
) -> Callable[[Floats], Floats]:
    """A function from group weights (R, G) to the AUC of each replicate; NaN if a class is absent.

    The items are sorted once; a replicate then needs only running sums of their weights.
    """
    order = np.argsort(scores_Q, kind="stable")
    sorted_Q, positive_sorted_Q = scores_Q[order], positive_Q[order]
    ties = np.flatnonzero(np.r_[True, sorted_Q[1:] != sorted_Q[:-1]])

    def weighted(times_R_G: Floats) -> Floats:
        weight_R_Q = times_R_G[:, index_Q[order]]
        pos_R_U = np.add.reduceat(weight_R_Q * positive_sorted_Q, ties, axis=1)
        neg_R_U = np.add.reduceat(weight_R_Q * ~positive_sorted_Q, ties, axis=1)
        below_R_U = np.cumsum(neg_R_U, axis=1) - neg_R_U / 2.0
        with np.errstate(invalid="ignore"):
            pairs_R = pos_R_U.sum(axis=1) * neg_R_U.sum(axis=1)
            result_R: Floats = (pos_R_U * below_R_U).sum(axis=1) / pairs_R
        return result_R

    return weighted
