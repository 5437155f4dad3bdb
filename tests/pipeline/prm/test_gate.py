"""The gate's statistics on data whose right answer is known, and what it lets through."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prm.gate import (
    Bar,
    Scored,
    answer_auc,
    calibration,
    card_of,
    closed,
    closed_minus,
    first_wrong,
    right_by_labels,
    shortfalls,
    step_auc,
    within_auc,
    within_auc_minus,
)

REPS = 300


def response(
    query: str,
    index: int,
    scores: list[float],
    values: list[float | None],
    *,
    right: bool | None = None,
    correct: bool = True,
) -> Scored:
    known = [value for value in values if value is not None]
    return Scored(
        query, query, index, correct, tuple(scores), min(scores), tuple(values),
        right_by_labels(known) if right is None else right,
    )  # fmt: skip


def test_a_perfect_model_and_a_blind_one() -> None:
    values = [[1.0, 0.75], [0.875, 0.0], [0.5, 0.25]]
    perfect = [response(f"q{i}", 0, v, list(v)) for i, v in enumerate(values * 5)]
    blind = [response(f"q{i}", 0, [0.5, 0.5], list(v)) for i, v in enumerate(values * 5)]
    found = step_auc(perfect, seed=0, reps=REPS)
    assert found is not None
    assert (found.value, found.ci95, found.n) == (1.0, (1.0, 1.0), 30)
    found = step_auc(blind, seed=0, reps=REPS)
    assert found is not None
    assert found.value == 0.5
    assert calibration(perfect, seed=0, reps=REPS)["brier"].value == 0.0
    assert calibration(perfect, seed=0, reps=REPS)["error"].value == 0.0


def test_a_step_that_was_not_measured_counts_nowhere() -> None:
    rows = [response(f"q{i}", 0, [0.9, 0.1, 0.9], [1.0, 0.0, None]) for i in range(4)]
    found = step_auc(rows, seed=0, reps=REPS)
    assert found is not None
    assert (found.n, found.value) == (8, 1.0)
    assert calibration(rows, seed=0, reps=REPS)["brier"].n == 8


def test_within_auc_compares_only_correct_answers_of_one_question() -> None:
    rows = []
    for i in range(10):
        high = i / 10  # easy questions score higher throughout: pooling would blur the order
        rows.append(response(f"q{i}", 0, [high + 0.05], [1.0]))
        rows.append(response(f"q{i}", 1, [high], [0.0]))
        rows.append(response(f"q{i}", 2, [1.0], [0.0], correct=False))
    rows.append(response("only right", 0, [0.1], [1.0]))
    found = within_auc(rows, seed=0, reps=REPS)
    assert found is not None
    assert (found.value, found.n) == (1.0, 10)
    answers = answer_auc(rows, seed=0, reps=REPS)
    assert answers is not None
    assert (answers.value, answers.n) == (0.0, 10)


def test_calibration_error_is_the_gap_by_bins() -> None:
    rows = [response(f"q{i}", 0, [0.95, 0.15], [0.75, 0.25]) for i in range(20)]
    found = calibration(rows, seed=0, reps=REPS)
    assert found["error"].value == pytest.approx((0.2 + 0.1) / 2)
    assert found["bias"].value == pytest.approx(0.05)
    assert [(b["from"], b["n"]) for b in found["bins"]] == [(0.1, 20), (0.9, 20)]
    low, high = found["error"].ci95
    assert low == pytest.approx(high) == pytest.approx(0.15)


def test_first_wrong_step() -> None:
    rows = [
        response("a", 0, [0.9, 0.2, 0.1], [1.0, 0.25, 0.0]),  # found
        response("b", 0, [0.9, 0.8, 0.1], [1.0, 0.25, 0.0]),  # a step late
        response("c", 0, [0.9, 0.8], [1.0, 0.75]),  # rightly none
        response("d", 0, [0.4, 0.8], [1.0, 0.75]),  # a false alarm
        response("e", 0, [0.9, 0.3], [1.0, 0.0]),
    ]
    found = first_wrong(rows, seed=0, reps=REPS)
    shares = {name: (e.value, e.n) for name, e in found.items() if e is not None}
    assert shares == {
        "wrong": (pytest.approx(2 / 3), 3),
        "clean": (0.5, 2),
        "all": (pytest.approx(0.6), 5),
    }


def brute_closed(rows: list[Scored]) -> float:
    """From the definition, question by question."""
    top = bottom = 0.0
    for query in {row.query for row in rows}:
        mine = [row for row in rows if row.query == query and row.correct]
        if len(mine) < 3:
            continue
        wrong = sum(not row.process_right for row in mine) / len(mine)
        best = sorted(mine, key=lambda row: (-row.reward, row.sample_index))[:2]
        oracle = sorted(mine, key=lambda row: not row.process_right)[:2]
        top += wrong - sum(not row.process_right for row in best) / 2
        bottom += wrong - sum(not row.process_right for row in oracle) / 2
    return top / bottom


def test_closed_is_the_share_of_the_way_from_random_to_oracle() -> None:
    rng = random.Random(0)
    rows = [
        response(f"q{q}", i, [rng.choice([0.2, 0.4, 0.4, 0.9])], [None], right=rng.random() < 0.6,
                 correct=rng.random() < 0.8)
        for q in range(40)
        for i in range(rng.randint(1, 8))
    ]  # fmt: skip
    found = closed(rows, seed=0, reps=REPS)
    assert found["closed"].value == pytest.approx(brute_closed(rows))
    assert found["closed"].ci95[0] < found["closed"].value < found["closed"].ci95[1]
    perfect = [
        response(r.query, r.sample_index, [float(r.process_right)], [None],
                 right=r.process_right, correct=r.correct)
        for r in rows
    ]  # fmt: skip
    assert closed(perfect, seed=0, reps=REPS)["closed"].value == pytest.approx(1.0)
    assert closed(rows[:1], seed=0, reps=REPS)["closed"] is None


@given(st.integers(0, 10**6))
def test_two_rewards_are_compared_on_the_same_responses(seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        response(f"q{q}", i, [rng.choice([0.2, 0.4, 0.9])], [None], right=rng.random() < 0.6,
                 correct=rng.random() < 0.8)
        for q in range(12)
        for i in range(rng.randint(3, 8))
    ]  # fmt: skip
    others = [replace(row, reward=rng.choice([-3.0, -2.0, -1.0])) for row in rows]
    alone = [(closed(one, seed=0, reps=9), within_auc(one, seed=0, reps=9))
             for one in (rows, others)]  # fmt: skip
    choice, within = (measure(rows, others, seed=0, reps=9)
                      for measure in (closed_minus, within_auc_minus))  # fmt: skip
    (first, first_auc), (_, second_auc) = alone
    if first["closed"] is None:
        assert choice is None
    else:
        assert choice is not None
        assert choice.value == pytest.approx(brute_closed(rows) - brute_closed(others))
    if first_auc is None or second_auc is None:
        assert within is None
    else:
        assert within is not None
        assert within.value == pytest.approx(first_auc.value - second_auc.value)
        assert within.n == first_auc.n


def test_a_reward_minus_itself_is_nothing_whatever_is_drawn() -> None:
    rng = random.Random(1)
    rows = [
        response(f"q{q}", i, [rng.random()], [None], right=rng.random() < 0.6)
        for q in range(20)
        for i in range(6)
    ]
    for measure in (closed_minus, within_auc_minus):
        found = measure(rows, rows, seed=0, reps=REPS)
        assert found is not None
        assert (found.value, found.ci95) == (0.0, (0.0, 0.0))


def test_one_group_of_images_gives_no_interval_of_closed() -> None:
    rows = [response("q", i, [0.9 - i / 10], [None], right=i == 0) for i in range(4)]
    found = closed(rows, seed=0, reps=REPS)
    assert found["questions"] == 1
    assert found["closed"] is None
    assert found["top"].ci95 == (0.0, 1.0)


def test_what_cannot_be_known_is_none_and_is_not_let_through() -> None:
    card = card_of([response("q", 0, [0.9], [1.0])], seed=0, reps=REPS)
    assert card["auc_step"] is None
    assert card["auc_within"] is None
    assert card["top2"]["closed"] is None
    assert "no right or no wrong step" in shortfalls(card, Bar())[0]


def card(step: float, within: float | None, n: int = 50, margin: float = 0.02) -> dict[str, Any]:
    def plain(value: float) -> dict[str, Any]:
        return {"value": value, "n": n, "ci95": [value - margin, value + margin]}

    return {"auc_step": plain(step), "auc_within": within and plain(within)}


def test_the_bar() -> None:
    assert shortfalls(card(0.8, 0.7), Bar()) == []
    assert shortfalls(card(0.8, None), Bar()) == []
    assert shortfalls(card(0.8, 0.4, n=5), Bar()) == []
    assert "prm.least_auc_step" in shortfalls(card(0.55, 0.7), Bar())[0]
    assert "prm.least_auc_within" in shortfalls(card(0.8, 0.5), Bar())[0]
    assert "from chance" in shortfalls(card(0.65, 0.7, margin=0.15), Bar())[0]


@pytest.mark.parametrize(("knows", "used"), [(1.0, True), (0.0, False), (-1.0, False)])
def test_the_lowest_bar_keeps_out_what_knows_nothing(knows: float, used: bool) -> None:
    """Scores with the labels in them pass; scores without them and against them do not."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(120):
        values = rng.integers(0, 2, size=4).astype(float)
        scores = 1 / (1 + np.exp(-knows * (values - 0.5) - rng.normal(size=4)))
        rows.append(response(f"q{number}", 0, scores.tolist(), values.tolist()))
    assert (shortfalls(card_of(rows, seed=0, reps=REPS), Bar(0.0, 0.0)) == []) is used
