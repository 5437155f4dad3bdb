"""The table of answer pairs, and what holds for each of them beside its outcome."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest

from pipeline.grading.answers import plain
from pipeline.grading.forms import Form, Named, Number, Sequence, Solutions, Unreadable, terms_of
from pipeline.grading.grade import Gold, Verdict, check_gold, grade_answer, judge
from pipeline.grading.quantities import Quantity
from pipeline.grading.reading import read_element, read_number
from pipeline.query import AnswerType
from tests.support.answer_pairs import Pair, read_pairs

PAIRS = read_pairs()


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_answer_pairs(pair: Pair) -> None:
    assert judge(pair.answer, pair.gold) == Verdict(pair.outcome)


def test_space_and_dollars_around_the_whole_change_nothing() -> None:
    for pair in PAIRS:
        spaced = pair.answer.replace(" ", "  ")
        for answer in (f" {pair.answer}", f"{pair.answer} \n", f"${pair.answer}$", spaced):
            assert grade_answer(answer, pair.gold) == pair.outcome, (answer, pair)
        for wanted in (f" {pair.wanted} ", f"${pair.wanted}$"):
            gold = replace(pair.gold, answer=wanted)
            assert grade_answer(pair.answer, gold) == pair.outcome, (wanted, pair)


def test_gold_answers_of_the_table_are_accepted_and_equal_themselves() -> None:
    for pair in PAIRS:
        assert check_gold(pair.gold) is None, pair
        same = grade_answer(pair.wanted, pair.gold)
        # "A" is the letter of one choice and the text of another.
        assert same == "correct" or "A" in (pair.choices or ()), pair


def test_correct_is_symmetric_but_for_what_the_rules_say() -> None:
    compared = 0
    for pair in PAIRS:
        if pair.choices is not None or pair.outcome == "unparsed" or one_sided(pair):
            continue
        turned = Gold("q", pair.answer, pair.type)
        if check_gold(turned) is None:
            outcome = grade_answer(pair.wanted, turned)
            assert (outcome == "correct") == (pair.outcome == "correct"), pair
            compared += 1
    assert compared > 700


def one_sided(pair: Pair) -> bool:
    """Whether a rule makes a difference between answer and gold answer (docs/grading.md).

    Rounding; a percentage and a share; a noun that only the gold answer may add; the order of a
    list, which the gold answer says; and a ratio that could be a time.
    """
    texts = plain(pair.answer), plain(pair.wanted)
    if pair.type == "list" or any(":" in text for text in texts):
        return True
    forms = [form_of(text, pair.type) for text in texts]
    for value in [value for form in forms if form is not None for value in terms_of(form)]:
        if isinstance(value, Quantity | Number) and value.step is not None:
            return True
        if isinstance(value, Quantity) and (value.percent or (value.unit and value.unit.noun)):
            return True
    # Names without values are taken in the order of the alphabet.
    return any(isinstance(form, Solutions | Sequence) for form in forms) and "(" not in texts[0]


def form_of(text: str, kind: AnswerType) -> Form | None:
    try:
        form = read_number(text) if kind == "number" else read_element(text)
    except Unreadable:
        return None
    return form.value if isinstance(form, Named) else form


def test_the_table_is_broad() -> None:
    assert len({(p.type, p.wanted, p.choices, p.answer) for p in PAIRS}) >= 1200
    outcomes = Counter((pair.type, pair.outcome) for pair in PAIRS)
    for kind in get_args(AnswerType):
        for outcome in ("correct", "wrong", "unparsed"):
            assert outcomes[kind, outcome] >= 2, (kind, outcome)
