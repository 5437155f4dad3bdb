"""What a row's answer, choices and numbers are read as."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.cells import number_text
from pipeline.datasets.row_checks import check_row, infer_type


@pytest.mark.parametrize(
    ("choices", "answer", "expected"),
    [
        (None, "yes", "yes_no"),
        (None, "No", "yes_no"),
        (None, "42", "number"),
        (None, "-0.5", "number"),
        (("a", "b"), "a", "letter"),
        (None, "007", None),
        (None, "1,000", None),
        (None, "12 cm", None),
        (None, "B", None),
        (None, "blue", None),
        (None, "3, 5", None),
    ],
)
def test_a_type_is_inferred_only_where_one_fits(
    choices: tuple[str, ...] | None, answer: str, expected: str | None
) -> None:
    assert infer_type(choices, answer) == expected


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (["12", "9"], "B", "B"),
        (["12", "9"], "b", "B"),
        (["12", "9"], "(B)", "B"),
        (["12", "9"], "B.", "B"),
        (["12", "9"], "9", "B"),
        (["12", "9"], 9, "B"),
        (["A cat", "a dog"], "a CAT", "A"),
        (["x", "X"], "X", "B"),
        (["A", "B"], "B", "B"),
        (["B", "A"], "(B)", "B"),
        (None, "c)", "C"),
        # letter and text together, and the text as the grader reads it
        (["30°", "45°"], "B. 45°", "B"),
        (["30°", "45°"], "(B) 45°", "B"),
        (["30°", "45°"], "45 degrees", "B"),
        (["30°", "45°"], r"45^\circ", "B"),
        ([r"$\frac{1}{2}$", r"$\frac{1}{3}$"], r"\frac{1}{2}", "A"),
        ([r"$\frac{1}{3}$", r"$\frac12$"], r"\frac{1}{2}", "B"),
        ([r"\frac12", r"\frac13"], "1/3", "B"),
        ([r"x\neq 2", r"x\neq 3"], r"x \ne 3", "B"),
        (["R-r", "r-R"], "r-R", "B"),
        (["12", "9", r"8\sqrt{3}"], "12 (A)", "A"),
        # repeated choices, where the answer is a letter
        (["12", "9", "12"], "B", "B"),
        (["12", "9", "12"], "C", "C"),
        (["12", "9", "12"], "9", "B"),
        # padding at the end, as tables with a fixed number of choices have it
        (["12", "9", None], "9", "B"),
        (["12", "9", "", " "], "B", "B"),
        (["12", "9", float("nan"), None], "A", "A"),
        ([1.0, 2.0, None], 2.0, "B"),
        # numbers
        ([1, 2, 3], 2, "B"),
        ([1, 2.5, Decimal("3.50")], "2.5", "B"),
        ([1, 2.5, Decimal("3.50")], 3.5, "C"),
    ],
)
def test_answers_of_choices_become_letters(
    choices: list[str] | None, answer: object, letter: str
) -> None:
    values = {"question": "?", "choices": choices, "answer": answer, "answer_type": "letter"}
    problems: list[str] = []
    draft = check_row({k: v for k, v in values.items() if v is not None}, problems.append)
    assert problems == []
    assert draft is not None
    assert draft.answer == letter


@pytest.mark.parametrize("choices", ["", [], [None, None], ["", " "], [float("nan")] * 4])
def test_choices_of_nothing_but_padding_are_none(choices: Any) -> None:
    problems: list[str] = []
    draft = check_row({"question": "?", "choices": choices, "answer": "5"}, problems.append)
    assert problems == []
    assert draft is not None
    assert (draft.choices, draft.answer_type) == (None, "number")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (5.0, "5"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (0.1 + 0.2, "0.3"),
        (1 / 3, "0.333333333333333"),
        (1e-7, "0.0000001"),
        (1e20, "100000000000000000000"),
        (12345678901234568.0, "12345678901234568"),
        (Decimal("3.50"), "3.5"),
        (Decimal("5.000"), "5"),
        (Decimal("100"), "100"),
        (Decimal("1E+2"), "100"),
        (Decimal("12345678901234567890123456789.125"), "12345678901234567890123456789.125"),
        (True, None),
        (float("inf"), None),
        (float("nan"), None),
        (Decimal("Infinity"), None),
        ("5", None),
        (None, None),
    ],
)
def test_numbers_as_a_person_writes_them(value: object, text: str | None) -> None:
    assert number_text(value) == text


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=3
    )
)
def test_a_decimal_that_went_through_a_float_reads_as_itself(value: Decimal) -> None:
    assert len(value.as_tuple().digits) > 15 or number_text(float(value)) == number_text(value)
