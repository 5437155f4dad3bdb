"""Votes of ranked samples: Reward-Pass@K, best of N, and majorities, weighted or not."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from pipeline.hashing import canonical_json, sha256_hex

Vote = Literal["best", "weighted", "majority"]
VOTES: tuple[Vote, ...] = ("best", "weighted", "majority")
# Subsets of the K samples that a vote of N < K is averaged over.
DRAWS = 64


def ranked(rewards_K: Sequence[float | None]) -> list[int]:
    """Sample indices from best to worst: ties to the lower index, those without a reward last."""
    for reward in rewards_K:
        if reward is not None and not math.isfinite(reward):
            raise ValueError(f"a reward is a finite number, not {reward}")
    return sorted(range(len(rewards_K)), key=lambda i: (_fallen(rewards_K[i]), i))


def _fallen(reward: float | None) -> float:
    return math.inf if reward is None else -reward


def reward_pass(
    correct_K: Sequence[bool],
    rewards_K: Sequence[float | None],
    k: int = 2,
    *,
    texts_K: Sequence[str] | None = None,
) -> bool:
    """Is a correct response among the `k` highest-ranked of *all* samples of a query?

    Reward-Pass@2 for k = 2 (paper section 5). With `texts_K` equal texts are one response, the one
    with the lowest index; without, two copies of one text can take both places: report it both
    ways (paper section 7, trap 12).
    """
    if not len(correct_K) == len(rewards_K) or k < 1:
        raise ValueError(f"{len(correct_K)} outcomes, {len(rewards_K)} rewards, k = {k}")
    order = ranked(rewards_K)
    if texts_K is not None:
        first: dict[str, int] = {}
        for index, text in enumerate(texts_K):
            first.setdefault(text, index)
        order = [index for index in order if first[texts_K[index]] == index]
    return any(correct_K[index] for index in order[:k])


def winner(
    how: Vote, answers: Sequence[Hashable | None], rewards: Sequence[float | None]
) -> int | None:
    """The sample whose answer wins the vote of these samples; None when none has an answer.

    best: the highest reward. majority: each answer counts 1. weighted: each answer counts the
    reward of its response (paper section 4). Samples without an answer do not vote; equal votes go
    to the answer whose first sample has the lower index, and the winner is its first sample.
    """
    if how == "best":
        # Best-of-N trusts the reward alone: it may well pick a response that has no answer.
        order = ranked(rewards)
        return order[0] if order else None
    votes: dict[Hashable, float] = {}
    first: dict[Hashable, int] = {}
    for index, (answer, reward) in enumerate(zip(answers, rewards, strict=True)):
        if answer is None:
            continue
        first.setdefault(answer, index)
        weight = 1.0 if how == "majority" else (reward or 0.0)
        votes[answer] = votes.get(answer, 0.0) + weight
    if not votes:
        return None
    return first[max(votes, key=lambda answer: (votes[answer], -first[answer]))]


def vote_accuracy(
    how: Vote,
    correct_K: Sequence[bool],
    answers_K: Sequence[Hashable | None],
    rewards_K: Sequence[float | None],
    n: int,
    *,
    query: str,
    draws: int = DRAWS,
) -> float:
    """Expected accuracy of a vote of `n` of the K samples, for one query.

    The mean over `draws` subsets drawn without replacement, the same ones for every kind of vote
    and every policy: their seed is the query's hash. n = K is the one vote of all, and n = 1 the
    mean over the samples, each its own vote.
    """
    total = len(correct_K)
    if not 1 <= n <= total:
        raise ValueError(f"a vote of {n} needs 1 <= n <= {total} samples")
    if n == total:
        subsets = [list(range(total))]
    elif n == 1:
        subsets = [[index] for index in range(total)]
    else:
        seed = int(sha256_hex(canonical_json(["vote", query, n]))[:16], 16)
        rng = np.random.default_rng(seed)
        subsets = [sorted(rng.permutation(total)[:n].tolist()) for _ in range(draws)]
    hits = 0
    for subset in subsets:
        found = winner(how, [answers_K[i] for i in subset], [rewards_K[i] for i in subset])
        hits += found is not None and bool(correct_K[subset[found]])
    return hits / len(subsets)
