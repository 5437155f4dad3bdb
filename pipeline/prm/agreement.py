"""Agreement: does a process reward model order what it will have to choose among?

Top-k chooses among the *correct* responses to one question. What tells questions apart (a hard one
from an easy one) is of no use for that, and a score that knows nothing but the question passes any
measure that looks across questions. So everything here compares responses to one question with each
other, among correct ones, against the soft values of their labels; and the labels themselves are
asked first whether they can show it.

What always holds: a score that is the same for all responses to a question gives exactly 1/2; an
interval resamples whole groups of questions that share images; what cannot be measured is None.

Axes: R responses, S steps of a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.metrics.auc import auc_by_group
from pipeline.metrics.intervals import REPLICATES, Estimate, as_json
from pipeline.prm.gate import (
    CHANCE,
    RIGHT,
    Bar,
    Scored,
    auc_of_both,
    by_query,
    calibration,
    mean_over_questions,
    measured_steps,
)
from pipeline.selection.rewards import Aggregate, reward_p

SPLITS = 16
"""Random halves of the completions that the labels are compared with themselves by."""


def concordance(scores_R: Sequence[float], values_R: Sequence[float]) -> float | None:
    """Share of the pairs of different value that the scores order the same way, a tie counting 1/2;
    None without such a pair."""
    found = [
        0.5 if scores_R[i] == scores_R[j]
        else float((scores_R[i] > scores_R[j]) == (values_R[i] > values_R[j]))
        for i, j in combinations(range(len(values_R)), 2)
        if values_R[i] != values_R[j]
    ]  # fmt: skip
    return sum(found) / len(found) if found else None


def agreement(
    responses_R: Sequence[Scored], how: Aggregate, *, seed: int, reps: int = REPLICATES
) -> Estimate | None:
    """Concordance of the rewards of correct responses to a question with their values, aggregated
    alike: the mean over the questions that have a pair to order, which `n` counts."""
    return mean_over_questions(
        _correct(responses_R),
        lambda group: concordance(
            [r.reward for r in group], [reward_p(measured(r), how) for r in group]
        ),
        seed=seed,
        reps=reps,
    )


def agreement_of_labels(
    responses_R: Sequence[Scored], how: Aggregate, *, seed: int, reps: int = REPLICATES
) -> Estimate | None:
    """Concordance of one random half of each step's completions with the other half: 1/2 where the
    labels do not tell correct responses to a question apart, whoever is asked.

    None where a step has a single completion, or nothing is to be ordered.
    """
    rng = np.random.default_rng(seed)

    def of_question(group: Sequence[Scored]) -> float | None:
        found = []
        for _ in range(SPLITS):
            halves = [_halves(response, rng) for response in group]
            one, other = zip(*halves, strict=True)
            found.append(
                concordance([reward_p(v, how) for v in one], [reward_p(v, how) for v in other])
            )
        able = [value for value in found if value is not None]
        return sum(able) / len(able) if able else None

    correct_R = _correct(responses_R)
    if any(n < 2 for r in correct_R for n in r.completions_S):
        return None
    return mean_over_questions(correct_R, of_question, seed=seed, reps=reps)


def _halves(response: Scored, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """The values of a response's steps from a random half of their completions, and from the
    rest."""
    one, other = [], []
    for value, n in zip(measured(response), response.completions_S, strict=True):
        reached, drawn = round(value * n), n // 2
        hits = int(rng.hypergeometric(reached, n - reached, drawn))
        one.append(hits / drawn)
        other.append((reached - hits) / (n - drawn))
    return one, other


def measured(response: Scored) -> list[float]:
    """The values of a correct response's steps, none of which is imputed."""
    return [0.0 if value is None else value for value in response.values_S]


def _correct(responses_R: Sequence[Scored]) -> list[Scored]:
    return [
        response
        for response in responses_R
        if response.correct and all(value is not None for value in response.values_S)
    ]


def step_auc_within(
    responses_R: Sequence[Scored], *, seed: int, reps: int = REPLICATES
) -> Estimate | None:
    """AUC of step scores between right and wrong measured steps of one question: the mean over the
    questions that have both."""

    def of_question(group_R: Sequence[Scored]) -> float | None:
        steps = measured_steps(group_R)
        return auc_of_both(
            [score for score, value, _ in steps if value >= RIGHT],
            [score for score, value, _ in steps if value < RIGHT],
        )

    return mean_over_questions(responses_R, of_question, seed=seed, reps=reps)


def question_only(
    responses_R: Sequence[Scored], *, seed: int, reps: int = REPLICATES
) -> Estimate | None:
    """The baseline of every AUC across questions: that of a scorer which gives each step the mean
    score of its question, and so tells no response from another."""
    scores, right, groups = [], [], []
    for group_R in by_query(responses_R):
        mean = float(np.mean([score for response in group_R for score in response.scores_S]))
        for _, value, group in measured_steps(group_R):
            scores.append(mean)
            right.append(value >= RIGHT)
            groups.append(group)
    if len(set(right)) < 2:
        return None
    return auc_by_group(scores, right, groups, seed=seed, reps=reps)


def as_trained(responses_R: Sequence[Scored]) -> list[Scored]:
    """The held-out responses as training sees its own: as many correct as wrong ones of a question,
    with the imputed steps, each of which is trained towards 0."""
    mix: list[Scored] = []
    for group_R in by_query(responses_R):
        right = [response for response in group_R if response.correct]
        wrong = [response for response in group_R if not response.correct]
        pairs = min(len(right), len(wrong))
        mix += [response.with_imputed() for response in right[:pairs] + wrong[:pairs]]
    return mix


# --- the card and the decision -------------------------------------------------------------------


def agreement_card(
    responses_R: Sequence[Scored], how: Aggregate, bar: Bar, *, seed: int, reps: int = REPLICATES
) -> dict[str, Any]:
    """What the card says besides `pipeline.prm.gate.card_of`, in plain JSON form.

    cannot_show: why these labels say nothing about what the PRM is for, in words; empty where they
    do.
    """
    steps = [n for response in responses_R for n in response.completions_S]
    found: dict[str, Any] = as_json(
        {
            "agreement": agreement(responses_R, how, seed=seed, reps=reps),
            "agreement_of_labels": agreement_of_labels(responses_R, how, seed=seed, reps=reps),
            "auc_step_within": step_auc_within(responses_R, seed=seed, reps=reps),
            "question_only": question_only(responses_R, seed=seed, reps=reps),
            "imputed": steps.count(0) / max(1, len(steps)),
            "calibration_as_trained": calibration(as_trained(responses_R), seed=seed, reps=reps),
        }
    )
    return {**found, "cannot_show": _cannot_show(found, bar)}


def _cannot_show(card: dict[str, Any], bar: Bar) -> list[str]:
    own, there = card["agreement_of_labels"], card["agreement"]
    count = 0 if there is None else there["n"]
    reasons = []
    if count < bar.least_questions:
        reasons.append(
            f"{count} held-out questions have correct responses of different value, and "
            f"{bar.least_questions} are needed (prm.queries, prm.held_out, prm.held_out_responses)"
        )
    if own is None:
        reasons.append("their completions cannot be split into halves (prm.completions)")
    elif own["ci95"][0] <= CHANCE:
        reasons.append(
            f"one half of their completions agrees with the other no better than chance, "
            f"{_words(own)} (prm.completions)"
        )
    return reasons


def shortfalls_within(card: dict[str, Any], bar: Bar) -> list[str]:
    """Why a PRM is not to be used, by what its card says within questions; empty when it may be."""
    if card["cannot_show"]:
        why = "; ".join(card["cannot_show"])
        return [f"its labels cannot show whether it orders correct responses to a question: {why}"]
    found = []
    asked = (
        ("agreement", "agreement among correct responses to a question", bar.auc_within,
         "prm.least_auc_within"),
        ("auc_step_within", "step AUC within a question", bar.auc_step, "prm.least_auc_step"),
    )  # fmt: skip
    for name, words, least, key in asked:
        one = card[name]
        if one is None:
            found.append(f"{words} cannot be measured: no question has both right and wrong steps")
        elif one["value"] < least:
            found.append(f"{words} {one['value']:.3f} is below {least} ({key})")
        elif one["ci95"][0] <= CHANCE:
            found.append(
                f"{words} {_words(one)} cannot be told from chance, {CHANCE}, which a score that "
                "knows only the question has"
            )
    return found


def _words(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci95"]
    return f"{estimate['value']:.3f} [{low:.3f}, {high:.3f}] (n = {estimate['n']})"
