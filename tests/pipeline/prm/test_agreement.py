"""The gate within a question: what labels can show, and what a question-only scorer cannot pass."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prm.agreement import (
    agreement,
    agreement_card,
    as_trained,
    concordance,
    question_only,
    shortfalls_within,
)
from pipeline.prm.gate import Bar, Scored, card_of, right_by_labels, shortfalls

REPS = 300
COMPLETIONS = 16


def held_out(
    questions: int,
    truth: Callable[[random.Random, float], float],
    score: Callable[[random.Random, float, float], float],
    seed: int = 0,
) -> list[Scored]:
    """Four correct responses of two steps and a wrong one to each question. truth: a step's value,
    from how easy its question is; score: what the PRM says, from easiness and value."""
    rng = random.Random(seed)
    made = []
    for question in range(questions):
        easy = rng.uniform(0.2, 0.95)
        for index in range(5):
            values, scores = [], []
            for _ in range(2):
                true = min(1.0, max(0.0, truth(rng, easy)))
                values.append(sum(rng.random() < true for _ in range(COMPLETIONS)) / COMPLETIONS)
                scores.append(min(1.0, max(0.0, score(rng, easy, true))))
            made.append(
                Scored(
                    f"q{question}", question, index, index < 4, tuple(scores), min(scores),
                    tuple(values), right_by_labels(values), (COMPLETIONS,) * 2,
                )
            )  # fmt: skip
    return made


def varied(rng: random.Random, easy: float) -> float:
    return easy + rng.choice([-0.45, 0.0, 0.3])


def same(rng: random.Random, easy: float) -> float:
    return easy


def verdict(responses: list[Scored], bar: Bar | None = None) -> list[str]:
    bar = bar or Bar(0.5, 0.0)
    return shortfalls_within(agreement_card(responses, "min", bar, seed=0, reps=REPS), bar)


def test_a_scorer_that_knows_the_steps_passes() -> None:
    responses = held_out(60, varied, lambda rng, easy, true: true)
    assert verdict(responses) == []
    assert verdict(responses, Bar(0.6, 0.55)) == []


def test_a_scorer_that_knows_only_the_question_passes_across_questions_and_not_here() -> None:
    responses = held_out(60, varied, lambda rng, easy, true: easy)
    card = card_of(responses, seed=0, reps=REPS)
    assert shortfalls(card, Bar(0.5, 0.0)) == [], "the gate that looks across questions lets it in"
    found = agreement(responses, "min", seed=0, reps=REPS)
    assert found is not None
    assert (found.value, found.ci95) == (0.5, (0.5, 0.5))
    reasons = verdict(responses)
    assert any("which a score that knows only the question has" in reason for reason in reasons)
    baseline = question_only(responses, seed=0, reps=REPS)
    assert baseline is not None
    assert baseline.value == card["auc_step"]["value"], "the baseline is this very scorer"


def test_a_scorer_that_ranks_backwards_is_refused() -> None:
    assert verdict(held_out(60, varied, lambda rng, easy, true: 1.0 - true))


def test_labels_that_are_noise_say_that_they_cannot_show_it() -> None:
    responses = held_out(60, same, lambda rng, easy, true: true + rng.uniform(-0.1, 0.1))
    card = agreement_card(responses, "min", Bar(), seed=0, reps=REPS)
    assert "no better than chance" in " ".join(card["cannot_show"])
    (reason,) = shortfalls_within(card, Bar())
    assert "its labels cannot show whether it orders correct responses" in reason


def test_too_few_questions_say_so_and_pass_nothing() -> None:
    responses = held_out(6, varied, lambda rng, easy, true: true)
    (reason,) = verdict(responses)
    assert "6 held-out questions" in reason or "5 held-out questions" in reason
    assert "20 are needed (prm.queries, prm.held_out" in reason
    assert "cannot show" in verdict([])[0]


def test_the_gate_sees_what_training_saw() -> None:
    """Training takes as many correct as wrong responses, with 0 for what was not measured."""
    right = [Scored("q", 0, i, True, (0.9, 0.9), 0.9, (1.0, 1.0), True, (4, 4)) for i in range(4)]
    wrong = Scored("q", 0, 4, False, (0.2, 0.2), 0.2, (0.0, None), False, (4, 0))
    mix = as_trained([*right, wrong])
    assert [response.values_S for response in mix] == [(1.0, 1.0), (0.0, 0.0)]
    card = agreement_card([*right, wrong], "min", Bar(), seed=0, reps=REPS)
    assert card["imputed"] == pytest.approx(1 / 10)
    assert card["calibration_as_trained"]["bias"]["n"] == 4


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.0, 0.5, 1.0])), max_size=7
    )
)
def test_concordance_is_counted_over_all_pairs(pairs: list[tuple[float, float]]) -> None:
    scores, values = [p[0] for p in pairs], [p[1] for p in pairs]
    wins, total = 0.0, 0
    for (s, v), (t, w) in ((a, b) for a in pairs for b in pairs):
        if v > w:
            total += 1
            wins += 1.0 if s > t else 0.5 if s == t else 0.0
    expected = None if total == 0 else pytest.approx(wins / total)
    assert concordance(scores, values) == expected
