"""The quality gate: what a process reward model is worth, on images it was not trained on.

What always holds: every number has an interval that resamples whole groups of questions sharing
images, and the count it rests on; a number that the data cannot give is None, never 0 or 1/2. Soft
labels are binarised in one place (`RIGHT`): a step is right when at least half of its completions
reached the gold answer, a process when all of its steps are. Where a checker knows the truth
(`digits`), it can take the labels' place.

Axes: R responses, S steps of a response, Q questions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.metrics.auc import auc, auc_by_group
from pipeline.metrics.intervals import (
    REPLICATES,
    Estimate,
    as_json,
    bootstrap_by_group,
    ratio_by_group,
)
from pipeline.metrics.votes import ranked

RIGHT = 0.5
CHANCE = 0.5  # the AUC of scores that know nothing
BINS = 10
# Fewer distinct correct responses of a question leave Top-2 next to nothing to choose.
LEAST_CHOICE = 3


@dataclass(frozen=True)
class Scored:
    """A response with the scores of its steps and, where they are known, their values.

    query, group: its question, and what that is dependent on others through (images). correct: its
    answer. values_S: soft labels, None for a step that was not measured. process_right: whether
    every step holds. completions_S: how many graded completions stand behind each value; 0: it is
    imputed, and trained towards 0.
    """

    query: str
    group: Hashable
    sample_index: int
    correct: bool
    scores_S: tuple[float, ...]
    reward: float
    values_S: tuple[float | None, ...]
    process_right: bool
    completions_S: tuple[int, ...] = ()

    def with_imputed(self) -> Scored:
        """The same with 0 for every step that was not measured, as training takes it."""
        values = tuple(0.0 if value is None else value for value in self.values_S)
        return replace(self, values_S=values)


def right_by_labels(values_S: Sequence[float]) -> bool:
    """A process is right when each of its steps is (`RIGHT`)."""
    return all(value >= RIGHT for value in values_S)


def measured_steps(responses_R: Sequence[Scored]) -> list[tuple[float, float, Hashable]]:
    """Score, value and group of every measured step."""
    return [
        (score, value, response.group)
        for response in responses_R
        for score, value in zip(response.scores_S, response.values_S, strict=True)
        if value is not None
    ]


def step_auc(
    responses_R: Sequence[Scored], *, seed: int, reps: int = REPLICATES
) -> Estimate | None:
    """AUC of step scores between right and wrong steps; None without both."""
    steps = measured_steps(responses_R)
    right = [value >= RIGHT for _, value, _ in steps]
    if len(set(right)) < 2:
        return None
    return auc_by_group(
        [score for score, _, _ in steps], right, [group for _, _, group in steps],
        seed=seed, reps=reps,
    )  # fmt: skip


def within_auc(
    responses_R: Sequence[Scored], *, seed: int, reps: int = REPLICATES
) -> Estimate | None:
    """AUC of the reward between correct and wrong processes of correct answers, within a question.

    The mean over the questions that have both; `n` counts these. None when there are none.
    """
    return mean_over_questions(responses_R, _within, seed=seed, reps=reps)


def _within(group_R: Sequence[Scored]) -> float | None:
    """The AUC among the correct answers to one question."""
    correct = [response for response in group_R if response.correct]
    return _auc_between(correct, lambda response: response.process_right)


def answer_auc(
    responses_R: Sequence[Scored], *, seed: int, reps: int = REPLICATES
) -> Estimate | None:
    """AUC of the reward between right and wrong *answers*, within a question; None without both."""
    return mean_over_questions(
        responses_R,
        lambda group_R: _auc_between(group_R, lambda response: response.correct),
        seed=seed,
        reps=reps,
    )


def _auc_between(group_R: Sequence[Scored], right: Callable[[Scored], bool]) -> float | None:
    return auc_of_both(
        [r.reward for r in group_R if right(r)], [r.reward for r in group_R if not right(r)]
    )


def auc_of_both(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """The AUC; None where there are not both."""
    return auc(positive, negative) if positive and negative else None


def mean_over_questions(
    responses_R: Sequence[Scored],
    of_question: Callable[[Sequence[Scored]], float | None],
    *,
    seed: int,
    reps: int,
) -> Estimate | None:
    """The mean of a figure between 0 and 1 over the questions that have it; None: none has."""
    values, groups = [], []
    for group_R in by_query(responses_R):
        value = of_question(group_R)
        if value is not None:
            values.append(value)
            groups.append(group_R[0].group)
    if not values:
        return None
    return bootstrap_by_group(values, groups, seed=seed, reps=reps, bounds=(0.0, 1.0))


def by_query(responses_R: Sequence[Scored]) -> list[list[Scored]]:
    """The responses of each question."""
    groups: dict[str, list[Scored]] = {}
    for response in responses_R:
        groups.setdefault(response.query, []).append(response)
    return list(groups.values())


def calibration(
    responses_R: Sequence[Scored], *, seed: int, reps: int = REPLICATES
) -> dict[str, Any]:
    """How far step scores are from the values they stand for.

    brier: mean squared difference to the soft value. bias: mean score minus mean value. error: the
    expected calibration error, the mean over bins of |mean score - mean value|, weighted by size.
    bins: for each tenth of the scores its count and both means.
    """
    steps = measured_steps(responses_R)
    if not steps:
        return {"brier": None, "bias": None, "error": None, "bins": []}
    scores, values = (np.array([step[i] for step in steps], dtype=float) for i in (0, 1))
    groups = [group for _, _, group in steps]
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    brier = bootstrap_by_group(
        (scores - values) ** 2, groups, seed=seed, reps=reps, bounds=(0.0, 1.0)
    )
    bias = bootstrap_by_group(scores - values, groups, seed=seed, reps=reps, bounds=(-1.0, 1.0))
    table = [
        {
            "from": b / BINS,
            "n": int((bins == b).sum()),
            "score": float(scores[bins == b].mean()),
            "value": float(values[bins == b].mean()),
        }
        for b in range(BINS)
        if (bins == b).any()
    ]
    error = _calibration_error(scores - values, bins, groups, seed=seed, reps=reps)
    return {"brier": brier, "bias": bias, "error": error, "bins": table}


def _calibration_error(
    gaps: np.ndarray, bins: np.ndarray, groups: Sequence[Hashable], *, seed: int, reps: int
) -> Estimate:
    """Sum over bins of |sum of score - value| over the number of steps, bootstrapped by group."""
    names = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    index = np.array([names[group] for group in groups])
    sums_G_B = np.zeros((len(names), BINS))
    np.add.at(sums_G_B, (index, bins), gaps)
    size_G = np.bincount(index, minlength=len(names)).astype(float)
    rng = np.random.default_rng(seed)
    found = np.empty(reps)
    for rep in range(reps):
        drawn = rng.integers(len(names), size=len(names))
        found[rep] = np.abs(sums_G_B[drawn].sum(axis=0)).sum() / size_G[drawn].sum()
    value = float(np.abs(sums_G_B.sum(axis=0)).sum() / size_G.sum())
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(value, len(gaps), (float(low), float(high)))


def first_wrong(
    responses_R: Sequence[Scored], *, seed: int, reps: int = REPLICATES
) -> dict[str, Estimate | None]:
    """Is the first step that scores below `RIGHT` the first whose value does?

    wrong: share found among responses with a wrong step; clean: share of those without one that
    are said to have none; all: of all responses.
    """

    def first(numbers: Sequence[float | None]) -> int | None:
        return next((i for i, x in enumerate(numbers) if x is not None and x < RIGHT), None)

    rows = [(first(r.values_S), first(r.scores_S), r.group) for r in responses_R]

    def share(wanted: Callable[[int | None], bool]) -> Estimate | None:
        chosen = [(truth == said, group) for truth, said, group in rows if wanted(truth)]
        if not chosen:
            return None
        hits, groups = zip(*chosen, strict=True)
        return bootstrap_by_group(hits, groups, seed=seed, reps=reps, bounds=(0.0, 1.0))

    return {
        "wrong": share(lambda truth: truth is not None),
        "clean": share(lambda truth: truth is None),
        "all": share(lambda truth: True),
    }


def closed(
    responses_R: Sequence[Scored], *, k: int = 2, seed: int, reps: int = REPLICATES
) -> dict[str, Any]:
    """How much of the way from random to perfect choice the Top-k goes, in wrong processes kept.

    Over questions with at least `LEAST_CHOICE` correct responses (give distinct ones): the share of
    wrong processes among k drawn at random (its expectation), the k with the highest reward, and
    the k best there are; `closed` = (random - top) / (random - oracle), bootstrapped by group.
    """
    shares, groups = _shares_of_choice(responses_R, k)
    made: dict[str, Any] = {
        name: bootstrap_by_group(values, groups, seed=seed, reps=reps, bounds=(0.0, 1.0))
        if groups
        else None
        for name, values in shares.items()
    }
    random, top, oracle = (shares[name] for name in ("random", "top", "oracle"))
    made["closed"] = None
    # It has no lower bound, so one group of images says nothing about its interval.
    if len(set(groups)) > 1 and (random - oracle).sum() > 0:
        made["closed"] = ratio_by_group(random - top, random - oracle, groups, seed=seed, reps=reps)
    return made | {"questions": len(groups)}


def _shares_of_choice(
    responses_R: Sequence[Scored], k: int
) -> tuple[dict[str, np.ndarray], list[Hashable]]:
    """The three shares of `closed` for each question that has a choice, and its group."""
    shares: dict[str, list[float]] = {"random": [], "top": [], "oracle": []}
    groups: list[Hashable] = []
    for group_R in by_query(responses_R):
        right = sorted((r for r in group_R if r.correct), key=lambda r: r.sample_index)
        if len(right) < max(LEAST_CHOICE, k):
            continue
        wrong = [not r.process_right for r in right]
        order = ranked([r.reward for r in right])[:k]
        shares["random"].append(sum(wrong) / len(wrong))
        shares["top"].append(sum(wrong[i] for i in order) / k)
        shares["oracle"].append(max(0, k - wrong.count(False)) / k)
        groups.append(group_R[0].group)
    return {name: np.array(values) for name, values in shares.items()}, groups


# --- two rewards of the same responses, in pairs -------------------------------------------------


def within_auc_minus(
    responses_R: Sequence[Scored], other_R: Sequence[Scored], *, seed: int, reps: int = REPLICATES
) -> Estimate | None:
    """`within_auc` of one reward minus that of another, question by question; None without a
    question that has both kinds of processes. other_R: the same responses, rewarded otherwise."""
    differences, groups = [], []
    pairs = zip(by_query(responses_R), by_query(other_R), strict=True)
    for group_R, others_R in pairs:
        one, other = _within(group_R), _within(others_R)
        if one is not None and other is not None:
            differences.append(one - other)
            groups.append(group_R[0].group)
    if not differences:
        return None
    return bootstrap_by_group(differences, groups, seed=seed, reps=reps, bounds=(-1.0, 1.0))


def closed_minus(
    responses_R: Sequence[Scored],
    other_R: Sequence[Scored],
    *,
    k: int = 2,
    seed: int,
    reps: int = REPLICATES,
) -> Estimate | None:
    """`closed` of one reward minus that of another, on the same questions; None where `closed` is.

    other_R: the same responses, rewarded otherwise.
    """
    (shares, groups), (others, _) = (_shares_of_choice(r, k) for r in (responses_R, other_R))
    room = shares["random"] - shares["oracle"]
    if len(set(groups)) < 2 or room.sum() <= 0:
        return None
    return ratio_by_group(others["top"] - shares["top"], room, groups, seed=seed, reps=reps)


# --- the decision --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """What a PRM must reach to be used. within counts only with `least_questions` behind it.

    Whatever `auc_step` asks for, its interval must lie above chance, too.
    """

    auc_step: float = 0.6
    auc_within: float = 0.55
    least_questions: int = 20


def shortfalls(card: dict[str, Any], bar: Bar) -> list[str]:
    """Why a PRM is not to be used; empty when it may be."""
    found = []
    step, within = card["auc_step"], card["auc_within"]
    if step is None:
        found.append("the held-out labels have no right or no wrong step to tell apart")
    elif step["value"] < bar.auc_step:
        found.append(f"step AUC {step['value']:.3f} is below {bar.auc_step} (prm.least_auc_step)")
    elif step["ci95"][0] <= CHANCE:
        low, high = step["ci95"]
        found.append(
            f"step AUC {step['value']:.3f} [{low:.3f}, {high:.3f}] (n = {step['n']}) cannot be "
            f"told from chance, {CHANCE}: the PRM knows nothing, or too few responses were held "
            "out (prm.held_out, prm.held_out_responses)"
        )
    enough = within is not None and within["n"] >= bar.least_questions
    if enough and within["value"] < bar.auc_within:
        found.append(
            f"within-question AUC {within['value']:.3f} is below {bar.auc_within} "
            "(prm.least_auc_within)"
        )
    return found


def card_of(responses_R: Sequence[Scored], *, seed: int, reps: int = REPLICATES) -> dict[str, Any]:
    """All statistics of the gate in plain JSON form: the PRM's card."""
    card: dict[str, Any] = as_json(
        {
            "responses": len(responses_R),
            "questions": len({r.query for r in responses_R}),
            "steps": sum(len(r.scores_S) for r in responses_R),
            "right_means": f"value >= {RIGHT}",
            "auc_step": step_auc(responses_R, seed=seed, reps=reps),
            "auc_within": within_auc(responses_R, seed=seed, reps=reps),
            "auc_answer": answer_auc(responses_R, seed=seed, reps=reps),
            "calibration": calibration(responses_R, seed=seed, reps=reps),
            "first_wrong": first_wrong(responses_R, seed=seed, reps=reps),
            "top2": closed(responses_R, seed=seed, reps=reps),
        }
    )
    return card
