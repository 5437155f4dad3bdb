"""Numbers in answers: one value in every notation, and never another one.

All of it goes through `grade_answer`, as the loop does.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline.grading.grade import Gold, Outcome, grade_answer


def graded(answer: str, gold: str) -> Outcome:
    return grade_answer(answer, Gold("q", gold, "number"))


DECIMALS = st.builds(
    lambda digits, places: Fraction(digits, 10**places),
    st.integers(-(10**9), 10**9),
    st.integers(0, 4),
)


def written(value: Fraction, places: int = 4) -> str:
    """`value` with as many decimals as it needs, at most `places`."""
    text = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    text = f"{text[:-places]}.{text[-places:]}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text


def grouped(text: str, separator: str) -> str:
    whole, dot, rest = text.lstrip("-").partition(".")
    groups = [whole[max(0, end - 3) : end] for end in range(len(whole), 0, -3)]
    return ("-" if text.startswith("-") else "") + separator.join(reversed(groups)) + dot + rest


FORMATS: list[Callable[[str], str]] = [
    lambda text: f" {text} ",
    lambda text: f"${text}$",
    lambda text: f"$ {text} $",
    lambda text: f"\\({text}\\)",
    lambda text: f"\\boxed{{{text}}}",
    lambda text: f"$\\boxed{{\\text{{{text}}}}}$",
    lambda text: f"**{text}**",
    lambda text: f"The answer is {text}.",
    lambda text: f"answer: {text}",
    lambda text: f"x = {text}",
    lambda text: f"({text})",
    lambda text: f"about {text}",
    lambda text: text.replace("-", "\u2212"),
    lambda text: text.replace("-", "- "),
    lambda text: text + "0" if "." in text else text + ".00",
    lambda text: grouped(text, ","),
    lambda text: grouped(text, "{,}"),
    lambda text: grouped(text, "\\,"),
    lambda text: grouped(text, "\u202f"),
    lambda text: "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in text),
    lambda text: text if text.startswith("-") else f"+{text}",
]


@pytest.mark.parametrize("form", range(len(FORMATS)))
@given(value=DECIMALS)
def test_a_number_is_the_same_in_every_notation(form: int, value: Fraction) -> None:
    text = written(value)
    assert graded(FORMATS[form](text), text) == "correct"
    assert graded(text, FORMATS[form](text)) == "correct"


@given(DECIMALS, DECIMALS, st.sampled_from(FORMATS))
def test_another_number_is_wrong_in_every_notation(
    value: Fraction, other: Fraction, form: Callable[[str], str]
) -> None:
    # What rounds to the gold answer is correct; half a unit of its last decimal is the most.
    decimals = len(written(value).partition(".")[2])
    assume(abs(value - other) > (Fraction(1, 2 * 10**decimals) if decimals else 0))
    assert graded(form(written(other)), written(value)) == "wrong"


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
@example(12, 12)
@example(-3, 3)
def test_whole_numbers_are_equal_both_ways_or_not_at_all(a: int, b: int) -> None:
    assert graded(str(a), str(b)) == graded(str(b), str(a)) == ("correct" if a == b else "wrong")


@given(st.integers(-99, 99), st.integers(1, 99), st.integers(-99, 99), st.integers(1, 99))
@example(1, 2, 2, 4)
def test_fractions_are_compared_exactly(a: int, b: int, c: int, d: int) -> None:
    expected = "correct" if Fraction(a, b) == Fraction(c, d) else "wrong"
    for answer in (f"{a}/{b}", f"\\frac{{{a}}}{{{b}}}", f"$\\dfrac{{{a}}}{{{b}}}$", f"{a} / {b}"):
        assert graded(answer, f"{c}/{d}") == expected
        assert graded(f"{c}/{d}", answer) == expected


@given(st.integers(1, 10**6), st.sampled_from(["cm", "kg", "degrees", "apples", "km/h", "cm^2"]))
def test_spaces_before_a_unit_and_a_unit_left_out_do_not_count(number: int, unit: str) -> None:
    for answer in (f"{number} {unit}", f"{number}  {unit}.", f"{number} \\text{{{unit}}}"):
        assert graded(answer, f"{number} {unit}") == "correct"
        assert graded(answer, str(number)) == ("wrong" if unit == "apples" else "correct")
        assert graded(answer, f"{number + 1} {unit}") == "wrong"
        assert graded(answer, f"{number} litres") == "wrong"
    assert graded(str(number), f"{number} {unit}") == "correct"


@given(st.integers(2, 10**6))
def test_a_percent_sign_may_be_left_out_but_not_moved(number: int) -> None:
    assert graded(f"{number}%", str(number)) == "correct"
    assert graded(str(number), f"{number}\\%") == "correct"
    assert graded(written(Fraction(number, 100)), f"{number}%") == "correct"
    assert graded(f"{number}%", f"{number}00%") == "wrong"
    assert graded(f"{number}%", written(Fraction(number, 10_000))) == "wrong"
    # A sign that was added to a share does not leave the share as it is.
    share = written(Fraction(number % 99 + 1, 100))
    assert graded(f"{share}%", share) == "wrong"


OPERATIONS = st.sampled_from([" + ", "+", " - ", " * ", " \\times ", " × ", " plus ", " minus "])


@given(st.integers(0, 99), OPERATIONS, st.integers(0, 99))
def test_a_calculation_is_no_number(a: int, sign: str, b: int) -> None:
    # A policy that is paid for "3+4" stops before the arithmetic.
    for gold in (a + b, a - b, a * b, a, b):
        assert graded(f"{a}{sign}{b}", str(gold)) == "unparsed"


@given(st.integers(0, 99), st.sampled_from([" or ", " and ", ", ", "; ", " to ", "..", " ~ "]))
def test_two_numbers_are_no_number(a: int, between: str) -> None:
    assert graded(f"{a}{between}{a + 1}", str(a)) == "unparsed"
    assert graded(f"{a}{between}{a + 1}", str(a + 1)) == "unparsed"


def test_a_huge_exponent_is_not_computed() -> None:
    assert graded("1e999999999", "1") == "unparsed"
    assert graded("10^{999999999}", "1") == "unparsed"
    assert graded("9" * 61, "9" * 60) == "wrong"
    assert graded("9" * 500, "9" * 60) == "unparsed"


@pytest.mark.parametrize(
    "rest",
    ["or more", "or so", "at least", "less", "plus two", "times three", "no",
     "and a half", "not", "if true", "to seven", "squared", "point five", "over two", "fifty"],
)  # fmt: skip
def test_words_that_change_a_number_are_no_unit(rest: str) -> None:
    assert graded(f"5 {rest}", "5") == "unparsed"


@pytest.mark.parametrize(
    "text",
    ["5 thouſand", "ſeven", "twenty-ſix", "5 cm ſquared", "5 ſquare cm", "minuſ 5", "5 \u212ag"],
)
def test_letters_that_fold_to_others_are_not_those(text: str) -> None:
    assert graded(text, "5") in ("unparsed", "wrong")
