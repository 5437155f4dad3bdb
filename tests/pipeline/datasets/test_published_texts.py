"""Texts of published data: placeholders, choices inside questions, and answers inside replies."""

from __future__ import annotations

import pytest

from pipeline.datasets.published_form import Unusable, texts_of
from pipeline.datasets.published_texts import (
    answer_type,
    asked,
    bare_question,
    final_answer,
    split_choices,
    unboxed,
    without_placeholders,
)


@pytest.mark.parametrize(
    ("text", "images", "found"),
    [
        ("<image>\nHow many?", 1, "How many?"),
        ("How many? <image>", 1, "How many?"),
        ("<image><image>\nSame?", 2, "Same?"),
        ("<image 1> How many?", 1, "How many?"),
        ("Look:\n<image>\nHow many?", 1, "Look:\n\nHow many?"),
        ("In <image> it is", 1, "In image it is"),
        ("Is <image 2> as <image 1>?", 2, "Is image 2 as image 1?"),
        ("Is <image> as <image>?", 2, "Is image 1 as image 2?"),
        ("How many?", 2, "How many?"),
    ],
)
def test_placeholders(text: str, images: int, found: str) -> None:
    assert without_placeholders(text, images) == found


@pytest.mark.parametrize(("text", "images"), [("<image>?", 0), ("<image 3>?", 2)])
def test_a_placeholder_without_an_image(text: str, images: int) -> None:
    with pytest.raises(Unusable, match="image placeholders"):
        without_placeholders(text, images)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hint: Please answer.\nQuestion: How many?", "How many?"),
        ("Hint: with two decimal places, e.g.\nQuestion: How?", "How? (to 2 decimal places)"),
        ("Question: How many?\nSolution:", "How many?"),
        ("How?\nAnswer the question using a single word or phrase.", "How?"),
        ("How is this question: long?", "How is this question: long?"),
    ],
)
def test_a_prompt_around_a_question(text: str, found: str) -> None:
    assert bare_question(text) == found


@pytest.mark.parametrize(
    ("text", "question", "choices"),
    [
        ("Which?\nChoices:\n(A) one\n(B) two", "Which?", ["one", "two"]),
        ("Which?\nA. one\nB. two\nC. three", "Which?", ["one", "two", "three"]),
        ("Which?\nA: one\nB: two", "Which?", ["one", "two"]),
        ("哪个?\nA、一\nB、二", "哪个?", ["一", "二"]),
        ("Which?\nOptions: A: one, B: two, C: a, b", "Which?", ["one", "two", "a, b"]),
        ("Which?\nOptions: A. one B. two", "Which?", ["one", "two"]),
        ("Which?\nB. one\nC. two", "Which?\nB. one\nC. two", None),
        ("Which?\nA. only", "Which?\nA. only", None),
        ("Which of A and B?", "Which of A and B?", None),
        ("(A) one\n(B) two", "(A) one\n(B) two", None),  # nothing is asked
    ],
)
def test_choices_at_the_end_of_a_question(
    text: str, question: str, choices: list[str] | None
) -> None:
    assert split_choices(text) == (question, choices)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is B", "B"),
        ("The answer is 3.5.", "3.5"),
        ("Answer: (B)", "(B)"),
        ("answer sheet", "answer sheet"),
        ("42", "42"),
        ("I count.\n\nThe answer is 7.", "7"),
        ("I count.\n### Answer: 7", "7"),
        ("<SUMMARY>x</SUMMARY>\n<CONCLUSION>\nred\n</CONCLUSION>", "red"),
        ("<think>no\n</think>\n<answer>7</answer>", "7"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("$\\boxed{7}$.", "7"),
        ("I see 7.\n\n# Answer\n\n7", "7"),
    ],
)
def test_the_answer_of_a_reply(reply: str, answer: str) -> None:
    assert final_answer(reply) == answer


def test_a_reply_that_does_not_say_its_answer() -> None:
    with pytest.raises(Unusable, match="none says the answer"):
        final_answer("I count.\nThere are some.")


@pytest.mark.parametrize(
    ("text", "inside"),
    [("\\boxed{5}", "5"), ("\\boxed{a}{b}", "\\boxed{a}{b}"), ("\\boxed{a} and \\boxed{b}",
     "\\boxed{a} and \\boxed{b}"), ("5", "5")],
)  # fmt: skip
def test_a_box(text: str, inside: str) -> None:
    assert unboxed(text) == inside


@pytest.mark.parametrize(
    ("answer", "choices", "question", "kind"),
    [
        ("B", ["x", "y"], "?", "letter"),
        ("B", None, "Which? A. one B. two", "letter"),
        ("B", None, "Which point?", "word"),
        ("Yes", None, "?", "yes_no"),
        ("12 cm", None, "?", "number"),
        ("2\\sqrt{3}", None, "?", "number"),
        ("x + 1", None, "?", "expression"),
        ("San Francisco", None, "?", "word"),
        ("red", None, "?", "word"),
    ],
)
def test_the_type_of_an_answer(
    answer: str, choices: list[str] | None, question: str, kind: str
) -> None:
    assert answer_type(answer, choices, question) == kind


def test_an_empty_answer_is_a_hidden_one() -> None:
    assert asked("How many?", None, "") == {
        "question": "How many?", "answer_type": "word", "unlabelled": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "found"),
    [("['a', \"b\"]", ["a", "b"]), (["a", None, 3], ["a", "3"]), (None, []), ("[]", [])],
)
def test_lists_as_texts(cell: object, found: list[str]) -> None:
    assert texts_of(cell, "options") == found


@pytest.mark.parametrize("cell", ["['a'", "a, b", "7", 7, "__import__('os')"])
def test_what_is_no_list(cell: object) -> None:
    with pytest.raises(Unusable, match="no list"):
        texts_of(cell, "options")
