"""The paper's Figure 2 as numbers: what a process reward model is good for at test time.

From K graded and scored samples of each question: greedy, best-of-N, PRM-weighted and majority
voting for N = 1 … K, Reward-Pass@2 with and without copies of a text, and the rewards of correct
and wrong responses, of the two that training would take and of the correct ones it would leave.
Every number has an interval that resamples questions by the images they share.

Axes: Q questions, K samples of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.evaluation import doubling
from pipeline.metrics.intervals import REPLICATES, as_json, bootstrap_by_group
from pipeline.metrics.pass_at_k import pass_at_k
from pipeline.metrics.votes import VOTES, ranked, reward_pass, vote_accuracy
from pipeline.query import Query

BINS = 20


@dataclass(frozen=True)
class Group:
    """The samples of one question, by sample index.

    greedy: whether the greedy response is correct. correct_K: whether a response is correct and was
    not truncated. classes_K: what votes together (`pipeline.selection.answer_classes`), None for a
    response without an answer. rewards_K: R_p, None where a response has no score. steps_K,
    tokens_K: sizes.
    """

    query: Query
    greedy: bool
    correct_K: tuple[bool, ...]
    texts_K: tuple[str, ...]
    classes_K: tuple[int | None, ...]
    rewards_K: tuple[float | None, ...]
    steps_K: tuple[int, ...]
    tokens_K: tuple[int, ...]


def figure_2(groups_Q: Sequence[Group], *, seed: int = 0, reps: int = REPLICATES) -> dict[str, Any]:
    """All of it in plain JSON form.

    Raises:
        ValueError: no question, or questions with different numbers of samples.
    """
    sizes = {len(group.correct_K) for group in groups_Q}
    if len(sizes) != 1:
        raise ValueError(f"each question needs the same number of samples, not {sorted(sizes)}")
    k = sizes.pop()
    images_Q = image_groups([group.query for group in groups_Q])

    def mean(values_Q: Sequence[float]) -> Any:
        estimate = bootstrap_by_group(values_Q, images_Q, seed=seed, reps=reps, bounds=(0.0, 1.0))
        return as_json(estimate)

    votes: dict[str, dict[str, Any]] = {name: {} for name in (*VOTES, "pass")}
    for n in doubling(k):
        for how in VOTES:
            votes[how][str(n)] = mean(
                [
                    vote_accuracy(
                        how, g.correct_K, g.classes_K, g.rewards_K, n, query=g.query.content_hash
                    )
                    for g in groups_Q
                ]
            )
        votes["pass"][str(n)] = mean([pass_at_k(k, sum(g.correct_K), n) for g in groups_Q])
    return {
        "questions": len(groups_Q),
        "samples": k,
        "greedy": mean([g.greedy for g in groups_Q]),
        "votes": votes,
        "reward_pass_2": mean([reward_pass(g.correct_K, g.rewards_K) for g in groups_Q]),
        "reward_pass_2_distinct": mean(
            [reward_pass(g.correct_K, g.rewards_K, texts_K=g.texts_K) for g in groups_Q]
        ),
        "without_score": sum(r is None for g in groups_Q for r in g.rewards_K),
        "distributions": distributions(groups_Q),
    }


def distributions(groups_Q: Sequence[Group], k: int = 2) -> dict[str, Any]:
    """Rewards and sizes of correct and wrong responses, and of correct ones kept and left by Top-k.

    Distinct responses of each question; a class that is empty has count 0 and no means. One that
    was truncated is wrong, whatever its unfinished answer reads like."""
    rows: dict[str, list[tuple[float, int, int]]] = {
        name: [] for name in ("right", "wrong", f"top_{k}", "rest")
    }
    for group in groups_Q:
        right = _distinct(group, group.correct_K)
        wrong = _distinct(group, [not correct for correct in group.correct_K])
        order = [right[place] for place in ranked([group.rewards_K[i] for i in right])]
        classes = {"right": right, "wrong": wrong, f"top_{k}": order[:k], "rest": order[k:]}
        for name, places in classes.items():
            for i in places:
                reward = group.rewards_K[i]
                assert reward is not None
                rows[name].append((reward, group.steps_K[i], group.tokens_K[i]))
    return {name: _summary(found) for name, found in rows.items()}


def _distinct(group: Group, wanted_K: Sequence[bool]) -> list[int]:
    """The first of each text among the wanted responses that have a score."""
    places: dict[str, int] = {}
    for i, (text, reward) in enumerate(zip(group.texts_K, group.rewards_K, strict=True)):
        if wanted_K[i] and reward is not None:
            places.setdefault(text, i)
    return list(places.values())


def _summary(rows: Sequence[tuple[float, int, int]]) -> dict[str, Any]:
    table = np.array(rows, dtype=float).reshape(-1, 3)
    counts, edges = np.histogram(table[:, 0], bins=BINS, range=(0.0, 1.0))
    means = table.mean(axis=0).tolist() if len(rows) else [None] * 3
    return {
        "responses": len(rows),
        "reward": means[0],
        "steps": means[1],
        "tokens": means[2],
        "counts": counts.tolist(),
        "edges": edges.tolist(),
    }
