"""Dynamics: what a policy can do beyond its greedy answer, at one temperature (paper section 5).

From K samples of each validation question, graded and (where there is a process reward model)
scored: Pass@k, its distance to greedy, Reward-Pass@k in both forms, diversity, length, entropy.
Every share has an interval that resamples questions by the images they share.

What always holds: a truncated response is correct in none of it; Reward-Pass@k ranks *all* samples,
those without a reward last; Pass@k for k < K is the unbiased estimator.

Axes: Q questions, K samples of a question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.metrics.intervals import (
    REPLICATES,
    Estimate,
    Groups,
    as_json,
    bootstrap_by_group,
)
from pipeline.metrics.pass_at_k import headroom, pass_at_k_mean
from pipeline.metrics.votes import reward_pass

KS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Samples:
    """The K samples of one question at one temperature, by sample index.

    greedy: whether the greedy answer is correct. correct_K: graded correct and not truncated.
    rewards_K: R_p, None for a response without a score; None: nothing was scored. classes_K: which
    answers are equal, None for a response without one. tokens_K: lengths. nats_K: log-likelihood of
    each response, summed over its tokens.
    """

    greedy: bool
    correct_K: tuple[bool, ...]
    texts_K: tuple[str, ...]
    classes_K: tuple[int | None, ...]
    tokens_K: tuple[int, ...]
    nats_K: tuple[float, ...]
    rewards_K: tuple[float | None, ...] | None = None


def reward_pass_at(
    samples_Q: Sequence[Samples], groups_Q: Groups, k: int, *, seed: int, reps: int = REPLICATES
) -> dict[str, Estimate]:
    """Reward-Pass@k as sampled and of distinct responses: share of questions with a correct one
    among the k with the highest reward."""
    found = {}
    for name, distinct in (("sampled", False), ("distinct", True)):
        hits_Q = reward_hits(samples_Q, k, distinct=distinct)
        found[name] = bootstrap_by_group(hits_Q, groups_Q, seed=seed, reps=reps, bounds=(0.0, 1.0))
    return found


def reward_hits(samples_Q: Sequence[Samples], k: int, *, distinct: bool = False) -> list[float]:
    """For each question whether a correct response is among the k with the highest reward.

    Raises:
        ValueError: a question was not scored.
    """
    hits = []
    for one in samples_Q:
        if one.rewards_K is None:
            raise ValueError("Reward-Pass@k needs scores of all samples")
        texts = one.texts_K if distinct else None
        hits.append(float(reward_pass(one.correct_K, one.rewards_K, k, texts_K=texts)))
    return hits


def dynamics_row(
    samples_Q: Sequence[Samples], groups_Q: Groups, *, seed: int = 0, reps: int = REPLICATES
) -> dict[str, Any]:
    """All figures of one policy at one temperature, in plain JSON form.

    Raises:
        ValueError: no question, or questions with different numbers of samples.
    """
    sizes = {len(one.correct_K) for one in samples_Q}
    if len(sizes) != 1:
        raise ValueError(f"each question needs the same number of samples, not {sorted(sizes)}")
    (most,) = sizes
    ks = [k for k in KS if k <= most]
    correct_Q_K = [one.correct_K for one in samples_Q]
    greedy_Q = [one.greedy for one in samples_Q]
    made: dict[str, Any] = {
        "n": len(samples_Q),
        "samples": most,
        "greedy": bootstrap_by_group(greedy_Q, groups_Q, seed=seed, reps=reps, bounds=(0.0, 1.0)),
        "pass_at": {
            str(k): pass_at_k_mean(correct_Q_K, groups_Q, k, seed=seed, reps=reps) for k in ks
        },
        "headroom": {
            str(k): headroom(correct_Q_K, greedy_Q, groups_Q, k, seed=seed, reps=reps) for k in ks
        },
        **{name: _mean(values, groups_Q, seed, reps) for name, values in _shape(samples_Q).items()},
    }
    if all(one.rewards_K is not None for one in samples_Q):
        made["reward_pass_at"] = {
            str(k): reward_pass_at(samples_Q, groups_Q, k, seed=seed, reps=reps) for k in ks
        }
    plain: dict[str, Any] = as_json(made)
    return plain


def _shape(samples_Q: Sequence[Samples]) -> dict[str, list[float]]:
    """Of each question: distinct answers and chains, mean tokens, and mean negative log-likelihood
    of a token, which estimates the entropy of what is sampled from (nats)."""
    return {
        "answers": [float(len({c for c in s.classes_K if c is not None})) for s in samples_Q],
        "chains": [float(len(set(s.texts_K))) for s in samples_Q],
        "tokens": [sum(s.tokens_K) / len(s.tokens_K) for s in samples_Q],
        "entropy": [-sum(s.nats_K) / max(1, sum(s.tokens_K)) for s in samples_Q],
    }


def _mean(values_Q: Sequence[float], groups_Q: Groups, seed: int, reps: int) -> Estimate:
    limits = (min(values_Q), max(values_Q))
    return bootstrap_by_group(values_Q, groups_Q, seed=seed, reps=reps, bounds=limits)


def saturation(rows: Sequence[Mapping[str, Any]], *, window: int = 3) -> list[str]:
    """Why more iterations may teach nothing, in words; empty where they may.

    rows: `dynamics_row` of the same questions at one temperature, after each measured iteration.
    Head-room is gone when its interval reaches 0; Reward-Pass@2 has stopped when it moved by less
    than its own error over the last `window` rows.
    """
    if not rows:
        return []
    last, said = rows[-1], []
    k = max(last["headroom"], key=int)
    low, _ = last["headroom"][k]["ci95"]
    if low <= 0.0:
        said.append(
            f"Pass@{k} is above greedy by {100 * last['headroom'][k]['value']:.1f} points, which "
            "cannot be told from nothing: there is nothing left to select"
        )
    if len(rows) >= window and all("2" in row.get("reward_pass_at", {}) for row in rows[-window:]):
        part = [row["reward_pass_at"]["2"]["sampled"] for row in rows[-window:]]
        moved = max(one["value"] for one in part) - min(one["value"] for one in part)
        error = max(one["ci95"][1] - one["ci95"][0] for one in part) / 2
        if moved <= error:
            said.append(
                f"Reward-Pass@2 moved by {100 * moved:.1f} points over the last {window} "
                f"evaluations, its error is {100 * error:.1f}"
            )
    return said
