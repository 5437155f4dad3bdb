"""The grader: what must hold for every number, letter and text (the table is in test_pairs)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.errors import BadData
from pipeline.grading.grade import (
    GRADER_VERSION,
    MAX_ANSWER_CHARS,
    Gold,
    Outcome,
    check_gold,
    gold_of,
    grade,
    grade_answer,
    judge,
)
from pipeline.query import LETTERS, AnswerType, Query

ROOT = Path(__file__).resolve().parents[3]
TYPES: tuple[AnswerType, ...] = get_args(AnswerType)


def graded(answer: str, gold: str, kind: AnswerType = "number", *choices: str) -> Outcome:
    return grade_answer(answer, Gold("q", gold, kind, choices or None))


@given(st.integers(-999, 999), st.integers(-999, 999))
def test_a_number_is_a_number_whatever_the_question(answer: int, gold: int) -> None:
    expected = "correct" if answer == gold else "wrong"
    assert graded(str(answer), str(gold)) == expected
    assert graded(str(answer), str(gold), "word") == expected
    assert graded(str(answer), str(gold), "expression") == expected
    assert graded(str(answer), str(gold), "list") == expected
    assert graded(str(answer), "A", "letter", str(gold), "x") == expected.replace(
        "wrong", "unparsed"
    )


def test_grading_loads_no_large_library() -> None:
    code = """
        import sys
        from pipeline.grading.grade import Gold, grade_answer
        assert grade_answer("7", Gold("q", "7", "number")) == "correct"
        assert "mpmath" not in sys.modules
        assert grade_answer("\\\\sqrt{8}", Gold("q", "2\\\\sqrt{2}", "expression")) == "correct"
        assert not {"sympy", "numpy", "torch"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=ROOT)


# -- options -----------------------------------------------------------------------------------

LETTERED = [
    "{}", "({})", "[{}]", "{}.", "{})", "{}:", "**{}**", "${}$", "\\boxed{{{}}}", "\\text{{{}}}",
    "Option {}", "option ({})", "The answer is {}.", "The correct option is ({})", "Answer: {}",
    "\\boxed{{\\text{{({})}}}}", "choice {}",
]  # fmt: skip

NOUNS = st.lists(
    st.sampled_from(["cat", "dog", "a bird", "12", "3.5 cm", "\\frac{1}{2}", "north-east", "50%"]),
    min_size=2,
    max_size=6,
    unique=True,
)


@given(NOUNS, st.data(), st.sampled_from(LETTERED), st.booleans())
def test_a_letter_names_its_option_in_every_notation(
    choices: list[str], data: st.DataObject, form: str, lower: bool
) -> None:
    gold, said = (data.draw(st.integers(0, len(choices) - 1)) for _ in range(2))
    letter = LETTERS[said].lower() if lower else LETTERS[said]
    expected = "correct" if said == gold else "wrong"
    assert graded(form.format(letter), LETTERS[gold], "letter", *choices) == expected
    assert graded(form.format(letter), f"({LETTERS[gold]})", "letter", *choices) == expected
    assert graded(form.format(letter), LETTERS[gold], "letter") == expected


@given(NOUNS, st.data(), st.sampled_from(["({}) {}", "{}: {}", "{}. {}", "{}) {}", "{} - {}"]))
def test_a_letter_and_a_text_must_name_the_same_option(
    choices: list[str], data: st.DataObject, form: str
) -> None:
    gold, letter, text = (data.draw(st.integers(0, len(choices) - 1)) for _ in range(3))
    outcome = graded(form.format(LETTERS[letter], choices[text]), LETTERS[gold], "letter", *choices)
    if letter != text:
        assert outcome == "unparsed"
    else:
        assert outcome == ("correct" if letter == gold else "wrong")


@given(NOUNS, st.data())
def test_the_text_of_an_option_names_it(choices: list[str], data: st.DataObject) -> None:
    gold, said = (data.draw(st.integers(0, len(choices) - 1)) for _ in range(2))
    expected = "correct" if said == gold else "wrong"
    for text in (
        choices[said],
        choices[said].upper().replace("FRAC", "frac"),
        f" {choices[said]}.",
    ):
        assert graded(text, LETTERS[gold], "letter", *choices) == expected


@given(
    st.lists(st.text("abcde", min_size=2, max_size=6), min_size=2, max_size=4, unique=True),
    st.data(),
)
def test_the_nearest_option_is_not_taken(choices: list[str], data: st.DataObject) -> None:
    gold = data.draw(st.integers(0, len(choices) - 1))
    text = choices[gold]
    place = data.draw(st.integers(0, len(text)))
    near = text[:place] + "x" + text[place + data.draw(st.integers(0, 1)) :]
    assert graded(near, LETTERS[gold], "letter", *choices) == "unparsed"


@given(st.lists(st.integers(0, 5), min_size=2, max_size=2, unique=True), st.data())
def test_two_letters_are_no_answer(letters: list[int], data: st.DataObject) -> None:
    between = data.draw(st.sampled_from([" or ", " and ", ", ", " / ", "", " "]))
    text = between.join(LETTERS[i] for i in letters)
    choices = ["left", "right", "above", "below", "inside", "outside"]
    for gold in letters:
        assert graded(text, LETTERS[gold], "letter", *choices) == "unparsed"
        assert graded(text, LETTERS[gold], "letter") == "unparsed"


# -- words and lists ---------------------------------------------------------------------------

WORDS = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=8), min_size=1, max_size=3
).map(" ".join)


@given(WORDS, st.sampled_from([str.upper, str.title, " {} ".format, "{}.".format, '"{}"'.format]))
def test_case_quotes_and_spaces_do_not_count_in_words(
    word: str, form: Callable[[str], str]
) -> None:
    assert graded(form(word), word, "word") == "correct"
    assert graded(form(word).replace(" ", "  "), word, "word") == "correct"


@given(WORDS, WORDS)
def test_another_word_is_wrong(word: str, other: str) -> None:
    bare = [text.removeprefix("the ").removeprefix("an ") for text in (word, other)]
    assume(bare[0] != bare[1])
    assert graded(other, word, "word") == "wrong"


NUMBERS = st.lists(st.integers(-999, 999), min_size=2, max_size=5)


@given(NUMBERS, NUMBERS)
def test_lists_are_compared_in_order(a: list[int], b: list[int]) -> None:
    for numbers in (a, b):
        expected = "correct" if numbers == a else "wrong"
        texts = [str(number) for number in numbers]
        for answer in (", ".join(texts), str(numbers), "; ".join(texts), " and ".join(texts)):
            assert graded(answer, str(a), "list") == expected


@given(st.permutations(range(5)), st.permutations(range(5)))
def test_sets_are_compared_in_any_order(a: list[int], b: list[int]) -> None:
    gold = "{" + ", ".join(map(str, a)) + "}"
    assert graded(", ".join(map(str, b)), gold, "list") == "correct"
    assert graded(", ".join(map(str, [*b[:-1], b[0]])), gold, "list") == "wrong"


# -- expressions -------------------------------------------------------------------------------


def test_only_a_whole_text_is_an_expression() -> None:
    assert graded("I think that it may be 5", "5", "expression") == "unparsed"
    assert graded("1 = 2 = 5", "5", "expression") == "unparsed"
    assert graded("$3$ or maybe $5$", "5", "expression") != "correct"
    assert graded("7, answer: \\frac{3}{4}", "3/4", "expression") == "unparsed"
    assert graded("\\frac{3}{4} - {", "3/4", "expression") == "unparsed"


def test_variables_are_not_taken_for_units() -> None:
    for letter in "cmtgdslho":
        assert graded(f"3{letter}", "3", "expression") == "wrong"
        assert graded(f"x + 3{letter}", "x + 3", "expression") == "wrong"


@settings(max_examples=25)
@given(st.integers(1, 30), st.sampled_from([2, 3, 5, 7]), st.integers(1, 30))
def test_roots_are_compared_by_value(a: int, root: int, b: int) -> None:
    expected = "correct" if a == b else "wrong"
    assert graded(f"{a}√{root}", f"{b}\\sqrt{{{root}}}", "expression") == expected
    assert graded(f"\\sqrt{{{a * a * root}}}", f"{b}\\sqrt{{{root}}}", "expression") == expected


def test_expressions_are_compared_in_threads() -> None:
    with ThreadPoolExecutor(4) as threads:
        futures = [
            threads.submit(graded, f"\\sqrt{{{4 * n}}}", f"2\\sqrt{{{n}}}", "expression")
            for n in range(2, 40)
        ]
    assert {future.result() for future in futures} == {"correct"}


# -- any text ----------------------------------------------------------------------------------

GOLDS: dict[AnswerType, tuple[str, tuple[str, ...] | None]] = {
    "number": ("12.5 cm", None),
    "expression": ("2\\sqrt{3}", None),
    "letter": ("B", ("12", "\\sqrt{2}", "a dog", "B")),
    "word": ("light blue", None),
    "yes_no": ("no", None),
    "list": ("[1, red]", None),
}
PARTS = """12 1,234 .5 - + % $ ( ) [ ] { } \\{ \\boxed{ \\frac \\frac{1}{2} \\text{ \\sqrt √ π ² ½ °
    cm /h per yes no and or not A B option answer: The is = ≈ about million e5 ×10^ ** ` " ' , . ; :
    hundred twenty one-third ſ K ı İ ß ٣ ３ Ａ # & ~ ^\\circ _2 ! ?"""

FRAGMENTS = st.lists(
    st.sampled_from([*PARTS.split(), "\u200b", "\u00a0", "\n", "\u212a"]), max_size=8
)


@pytest.mark.parametrize("kind", TYPES)
@given(answer=st.one_of(st.text(max_size=40), FRAGMENTS.map("".join), FRAGMENTS.map(" ".join)))
def test_no_text_is_an_error(kind: AnswerType, answer: str) -> None:
    gold, choices = GOLDS[kind]
    outcome = grade_answer(answer, Gold("q", gold, kind, choices))
    assert outcome in ("correct", "wrong", "unparsed")
    # The same text as a gold answer is graded, or refused as data.
    with contextlib.suppress(BadData):
        grade_answer(gold, Gold("q", answer, kind, choices))


@settings(max_examples=60)
@given(answer=st.text("12xy+-(){}[]\\ =,.%√π/", max_size=12))
def test_no_expression_is_an_error(answer: str) -> None:
    assert graded(answer, "x + 2", "expression") in ("correct", "wrong", "unparsed")


@pytest.mark.parametrize(
    "piece", ["9", "1,", "1 ", "a ", "(", "{", "\\text{", "**", "-", ".", "$", "²"]
)
@pytest.mark.parametrize("kind", TYPES)
def test_a_long_answer_is_read_in_bounded_time(kind: AnswerType, piece: str) -> None:
    gold, choices = GOLDS[kind]
    text = (piece * MAX_ANSWER_CHARS)[:MAX_ANSWER_CHARS]
    assert grade_answer(text, Gold("q", gold, kind, choices)) != "correct"
    assert grade_answer(text + "!", Gold("q", text + "!", "word")) == "unparsed"


# -- responses and queries ---------------------------------------------------------------------


def query(gold: str | None, kind: AnswerType = "number", *choices: str) -> Query:
    return Query("train/7", (), "How many?", choices or None, gold, kind)


def test_a_response_is_graded_by_its_answer() -> None:
    assert grade("3 and 4 make 7.\n\n# Answer\n\n7", query("7")) == "correct"
    assert grade("3 and 4 make 7.\n\n# Answer\n\n8", query("7")) == "wrong"
    assert grade("3 and 4 make 7.", query("7")) == "unparsed"
    assert grade("7\n\n# Answer\n\n", query("7")) == "unparsed"
    assert grade("# Answer\n\n7\n\n# Answer\n\n7", query("7")) == "unparsed"


@pytest.mark.parametrize(
    ("gold", "kind", "choices"),
    [
        ("banana", "number", ()),
        ("3+4", "number", ()),
        ("AB", "letter", ()),
        ("C", "letter", ("12", "9")),
        ("7", "letter", ("12", "9")),
        ("maybe", "yes_no", ()),
        ("1,,2", "list", ()),
        ("...", "word", ()),
        ("  ", "expression", ()),
        (None, "number", ()),
    ],
)
def test_a_gold_answer_that_does_not_fit_is_data_to_mend(
    gold: str | None, kind: AnswerType, choices: tuple[str, ...]
) -> None:
    bad = query(gold, kind, *choices)
    with pytest.raises(BadData, match=r"train/7"):
        grade("A step.\n\n# Answer\n\n7", bad)
    if gold is not None:
        assert repr(gold) in (check_gold(gold_of(bad)) or "")


def test_an_unreadable_gold_expression_is_data_to_mend() -> None:
    with pytest.raises(BadData, match=r"train/7.*\(\("):
        grade_answer("x", gold_of(query("((x", "expression")))


def test_the_version_names_what_outcomes_depend_on() -> None:
    assert f"3-mpmath-{version('mpmath')}" == GRADER_VERSION


def test_a_hidden_answer_grades_nothing() -> None:
    hidden = Query("h", (), "How many?", None, "7", "number", unlabelled=True)
    with pytest.raises(BadData, match="query h is unlabelled: its answer is hidden"):
        gold_of(hidden)
    with pytest.raises(BadData, match="hidden"):
        grade("# Answer\n\n7", hidden)


@pytest.mark.parametrize("answer", ["2^{10^9}", "\\sin(10^{10^5})"])
def test_a_comparison_that_fails_is_unparsed_and_says_why(answer: str) -> None:
    verdict = judge(answer, Gold("q", "x^2", "expression"))
    assert verdict.outcome == "unparsed"
    assert f"{answer!r} could not be compared with 'x^2': " in (verdict.reason or "")
    assert "too large, or too small" in (verdict.reason or "")
