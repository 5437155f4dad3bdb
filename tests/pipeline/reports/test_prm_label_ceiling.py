"""What labels say of the checker itself: figures known by hand."""

from __future__ import annotations

import pytest

from pipeline.records import StepValues
from pipeline.reports.prm_label_ceiling import ceilings
from pipeline.tasks.digits.checker import StepVerdict, Verdict


def label(query: str, index: int, values: list[float], completions: list[int]) -> StepValues:
    ends = tuple(range(1, len(values) + 1))
    return StepValues(
        query, query, index, "shard", "", 1, True, False, ends, ends, tuple(values),
        tuple(completions),
    )  # fmt: skip


def verdict(*holds: bool) -> Verdict:
    return Verdict(tuple(StepVerdict("", step, True, True) for step in holds), settles=True)


def test_the_checker_is_held_against_every_measured_step() -> None:
    """The step after a value of 0 was not measured and does not count."""
    labels = [
        label("a", 0, [1.0, 0.25], [4, 4]),
        label("b", 0, [0.75, 0.25], [4, 4]),
        label("b", 1, [0.0, 0.0], [4, 0]),
    ]
    verdicts = [verdict(True, False), verdict(True, True), verdict(False, True)]
    found = ceilings(labels, verdicts, ["a", "b", "b"])
    assert found["responses"] == 3
    assert found["checker_step"].n == 5
    # It says 1 and 1 of the right steps, 0, 1 and 0 of the wrong ones: 4 pairs in order, 2 ties.
    assert found["checker_step"].value == pytest.approx((4 + 2 * 0.5) / 6)
    assert found["checker_within"] is None


def test_the_question_knows_only_the_other_responses() -> None:
    labels = [
        label("a", 0, [1.0], [4]),
        label("a", 1, [0.0], [4]),
        label("b", 0, [1.0], [4]),
    ]
    verdicts = [verdict(True), verdict(False), verdict(True)]
    found = ceilings(labels, verdicts, ["a", "a", "b"])
    # The other one of `a` says the opposite each time; `b` has no other.
    assert found["question_step"].n == 2
    assert found["question_step"].value == 0.0
    assert found["checker_within"].value == 1.0


def test_steps_that_the_checker_counts_otherwise_are_left_out() -> None:
    labels = [label("a", 0, [1.0, 0.0], [4, 4]), label("a", 1, [1.0], [4])]
    found = ceilings(labels, [verdict(True), verdict(True)], ["a", "a"])
    assert found["responses"] == 1
    assert found["checker_step"] is None
