"""Summaries of a small set worked out by hand, and image groups against a search of the graph."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.accuracy import blind_guesses, image_groups, summarise
from pipeline.metrics.intervals import wilson
from pipeline.query import AnswerType, Query


def query(
    name: str,
    family: str,
    answer: str,
    kind: AnswerType = "number",
    *,
    choices: tuple[str, ...] | None = None,
    images: tuple[str, ...] | None = None,
) -> Query:
    images = (f"image of {name}",) if images is None else images
    return Query(name, images, "?", choices, answer, kind, source=family)


QUERIES = [
    query("a", "sum", "7"),
    query("b", "sum", "7"),
    query("c", "sum", "12"),
    query("d", "larger", "B", "letter", choices=("3", "4", "5", "6")),
    query("e", "larger", "A", "letter", choices=("3", "4", "5", "6")),
    query("f", "equal", "yes", "yes_no"),
]
OUTCOMES = ["correct", "unparsed", "wrong", "correct", "timeout", "correct"]


def test_a_summary_by_hand() -> None:
    rows = summarise(QUERIES, OUTCOMES, seed=0)
    assert list(rows) == ["all", "equal", "larger", "sum"]
    total = rows["all"]
    assert (total.greedy.value, total.greedy.n, total.greedy.ci95) == (0.5, 6, wilson(3, 6))
    assert total.unparsed.value == pytest.approx(1 / 6)
    assert total.timeouts == 1
    # Two of three sums are 7, one is 12; then two of four choices each; then yes or no.
    assert total.chance == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 / 4 + 1 / 4 + 1 / 2) / 6)
    assert total.majority == pytest.approx((2 + 1 + 1) / 6)
    assert rows["sum"].greedy.n == 3
    assert rows["sum"].unparsed.value == pytest.approx(1 / 3)
    assert rows["sum"].majority == pytest.approx(2 / 3)
    assert rows["larger"].timeouts == 1
    assert not total.pass_at
    assert not total.headroom


def test_pass_at_k_stands_beside_greedy() -> None:
    samples = [[True, False], [True, True], [False, False], [True, False], [False] * 2, [True] * 2]
    rows = summarise(QUERIES, OUTCOMES, samples, ks=(1, 2), seed=0, reps=200)
    assert rows["all"].pass_at[1].value == pytest.approx((0.5 + 1 + 0 + 0.5 + 0 + 1) / 6)
    assert rows["all"].pass_at[2].value == pytest.approx(4 / 6)
    assert rows["all"].headroom[2].value == pytest.approx(4 / 6 - 3 / 6)
    assert rows["sum"].pass_at[2].value == pytest.approx(2 / 3)
    # One image says nothing about others.
    assert rows["equal"].pass_at[2].ci95 == (0.0, 1.0)


def test_blind_guesses_are_per_family() -> None:
    same_answer_elsewhere = [*QUERIES, query("g", "difference", "7")]
    assert blind_guesses(same_answer_elsewhere)[:6] == blind_guesses(QUERIES)
    assert blind_guesses(same_answer_elsewhere)[6] == (1.0, True)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown outcomes"):
        summarise(QUERIES, [*OUTCOMES[:5], "right"], seed=0)
    with pytest.raises(ValueError, match="needs samples"):
        summarise(QUERIES, OUTCOMES, ks=(2,), seed=0)
    with pytest.raises(ValueError, match="one outcome"):
        summarise(QUERIES, OUTCOMES[:5], seed=0)
    with pytest.raises(ValueError, match="row of samples"):
        summarise(QUERIES, OUTCOMES, [[True]], seed=0)


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=12))
def test_groups_are_what_common_images_connect(images_Q: list[list[int]]) -> None:
    queries = [
        query(str(i), "x", "1", images=tuple(map(str, images))) for i, images in enumerate(images_Q)
    ]
    groups = image_groups(queries)
    for start in range(len(queries)):
        reached, frontier = {start}, [start]
        while frontier:
            here = set(images_Q[frontier.pop()])
            near = [j for j, other in enumerate(images_Q) if here & set(other) and j not in reached]
            reached.update(near)
            frontier.extend(near)
        assert {j for j, group in enumerate(groups) if group == groups[start]} == reached
