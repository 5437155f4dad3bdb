"""Whether a response's answer is the gold answer: `correct`, `wrong` or `unparsed`.

    response --extract_answer--> answer --quick_grade--> outcome          no sympy, microseconds
                    |                        `--None--> grade_answer --> outcome   math-verify
                    `--None--> unparsed

What always holds: the outcome is a function of answer, gold answer, type and choices alone.
`unparsed` is an answer that cannot be read as its type or can be read in two ways; an ambiguous
answer is never settled by a guess, and no option is taken for being similar (paper section 7,
points 8, 9, 11). Failing to grade is an exception, never `wrong`. An answer may take for ever in
`grade_answer`: `actors.grading.pool.GradePool` calls it in processes, adds the fourth outcome,
`timeout`, and kills what overruns.

The rules, by answer type:
* `number`: a numeral, fraction, percentage, with or without a unit (`quantities.same_quantity`); an
  exact form with roots or π goes to math-verify. A calculation ("3+4") is no number: a policy that
  is paid for it stops before the arithmetic.
* `expression`: math-verify (`expressions.same_expression`).
* `letter`, and every query with choices: by letter, by the option's text, or both if they agree.
* `word`: equal text, but for case, quotes, articles and hyphens. `yes_no`: also true and false.
* `list`: equal element by element, in order; in any order if the gold answer is in braces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Literal

from pipeline.errors import BadData
from pipeline.grading.answers import plain, read_yes_no, split_list, words
from pipeline.grading.choices import Same, by_text, letter, lone_letter, named_options
from pipeline.grading.expressions import (
    IRRATIONAL,
    MATHEMATICAL,
    Unreadable,
    UnreadableGold,
    same_expression,
)
from pipeline.grading.quantities import read_quantity, same_quantity
from pipeline.query import AnswerType, Query
from pipeline.responses import extract_answer

Outcome = Literal["correct", "wrong", "unparsed", "timeout"]

# Part of every grade's key: to be raised when a rule changes; the libraries' versions are in it.
GRADER_VERSION = "-".join(
    [
        "1",
        *(f"{name}-{version(name)}" for name in ("math-verify", "latex2sympy2-extended", "sympy")),
    ]
)

# A longer text is no answer, and would cost the patterns more than an answer is worth.
MAX_ANSWER_CHARS = 1000


@dataclass(frozen=True)
class Gold:
    """What an answer is compared with; `query_id` is for messages only."""

    query_id: str
    answer: str
    answer_type: AnswerType
    choices: tuple[str, ...] | None = None


_LONE_LETTER = re.compile(r"(?<![A-Za-z])[A-Za-z]$")


class NeedsMath(Exception):
    """Only math-verify can tell; raised inside `quick_grade`, never out of it."""


def gold_of(query: Query) -> Gold:
    """What to grade this query's answers against.

    Raises:
        BadData: when the query has no gold answer.
    """
    if query.answer is None:
        raise BadData(f"query {query.query_id}: no gold answer to grade against")
    return Gold(query.query_id, query.answer, query.answer_type, query.choices)


def grade(response_text: str, query: Query) -> Outcome:
    """The outcome of one response, in this process and without a deadline."""
    answer = extract_answer(response_text)
    return "unparsed" if answer is None else grade_answer(answer, gold_of(query))


def grade_answer(answer: str, gold: Gold) -> Outcome:
    """The outcome of one extracted answer; may take for ever.

    Raises:
        BadData: when the gold answer itself cannot be read as its type.
    """
    return _graded(answer, gold, same_expression)


def quick_grade(answer: str, gold: Gold) -> Outcome | None:
    """The outcome if it can be told without math-verify, in bounded time; else None."""
    try:
        return _graded(answer, gold, _no_math)
    except NeedsMath:
        return None


def check_gold(gold: Gold) -> str | None:
    """What is wrong with a gold answer, or None; for checking data, without sympy.

    Nothing that passes is refused when it is graded, but for an `expression`: whether that is one
    shows only then.
    """
    if len(gold.answer) > MAX_ANSWER_CHARS:
        return (
            f"the answer has {len(gold.answer)} characters, and none of more than "
            f"{MAX_ANSWER_CHARS} is graded; shorten it, or set unlabelled to true"
        )
    try:
        _graded("?", gold, _no_match)
    except BadData:
        return unreadable_gold(gold)
    return None


def _no_math(answer: str, gold: str) -> bool:
    raise NeedsMath


def _graded(answer: str, gold: Gold, same: Same) -> Outcome:
    wanted = _plain(gold.answer)
    if not wanted:
        raise _bad_gold(gold)
    text = plain(answer) if len(answer) <= MAX_ANSWER_CHARS else ""
    if not text:
        return "unparsed"
    try:
        if gold.choices is not None or gold.answer_type == "letter":
            return _grade_option(text, wanted, gold.choices, same)
        return _RULES[gold.answer_type](text, wanted, same)
    except (_Unfit, UnreadableGold) as error:
        raise _bad_gold(gold) from error
    except Unreadable:
        return "unparsed"


class _Unfit(Exception):
    """A gold answer that is not of its type."""


def unreadable_gold(gold: Gold) -> str:
    """That a gold answer is not of its type, and what to do about it."""
    kind = "one of its choices" if gold.choices is not None else f"answer_type {gold.answer_type}"
    return (
        f"cannot read the gold answer {gold.answer!r} as {kind}; "
        "correct the answer or its answer_type"
    )


def _bad_gold(gold: Gold) -> BadData:
    return BadData(f"query {gold.query_id}: {unreadable_gold(gold)}")


@lru_cache(maxsize=8192)
def _plain(text: str) -> str:
    return plain(text)


def _verdict(same: bool) -> Outcome:
    return "correct" if same else "wrong"


def _grade_number(text: str, wanted: str, same: Same) -> Outcome:
    gold = read_quantity(wanted)
    if gold is None and not IRRATIONAL.search(wanted):
        raise _Unfit
    if text == wanted:
        return "correct"
    answer = read_quantity(text)
    if answer is not None and gold is not None:
        return _verdict(same_quantity(answer, gold))
    if answer is None and not IRRATIONAL.search(text):
        return "unparsed"
    return _verdict(same(text, wanted))


def _grade_expression(text: str, wanted: str, same: Same) -> Outcome:
    if text == wanted:
        return "correct"
    answer, gold = read_quantity(text), read_quantity(wanted)
    # The "m" of "3 m" may be metres, or a variable: algebra does not drop it.
    variable = _LONE_LETTER.search(text) or _LONE_LETTER.search(wanted)
    if answer is not None and gold is not None and not variable:
        return _verdict(same_quantity(answer, gold))
    return _verdict(same(text, wanted))


def _grade_word(text: str, wanted: str, same: Same) -> Outcome:
    if not words(wanted):
        raise _Unfit
    if not words(text):
        return "unparsed"
    answer, gold = read_quantity(text), read_quantity(wanted)
    if answer is not None and gold is not None:
        return _verdict(same_quantity(answer, gold, rounding=False))
    return _verdict(words(text) == words(wanted))


def _grade_yes_no(text: str, wanted: str, same: Same) -> Outcome:
    answer, gold = read_yes_no(text), read_yes_no(wanted)
    if gold is None:
        raise _Unfit
    return "unparsed" if answer is None else _verdict(answer == gold)


def _grade_list(text: str, wanted: str, same: Same) -> Outcome:
    answers, golds = split_list(text), split_list(wanted)
    if golds is None:
        raise _Unfit
    if answers is None:
        return "unparsed"
    if len(answers[0]) != len(golds[0]):
        return "wrong"
    if golds[1] == "ordered":
        return _verdict(all(map(partial(_same_element, same), answers[0], golds[0])))
    left = list(golds[0])
    for answer in answers[0]:
        match = next((gold for gold in left if _same_element(same, answer, gold)), None)
        if match is None:
            return "wrong"
        left.remove(match)
    return "correct"


def _same_element(same: Same, answer: str, gold: str, *, rounding: bool = True) -> bool:
    """Whether two texts, of which neither needs to be mathematical, say the same."""
    if words(answer) == words(gold):
        return True
    numbers = read_quantity(answer), read_quantity(gold)
    if numbers[0] is not None and numbers[1] is not None:
        return same_quantity(numbers[0], numbers[1], rounding=rounding)
    if not (MATHEMATICAL.search(answer) and MATHEMATICAL.search(gold)):
        return False
    try:
        return same(answer, gold)
    except (Unreadable, UnreadableGold):
        return False


_RULES: dict[AnswerType, Callable[[str, str, Same], Outcome]] = {
    "number": _grade_number,
    "expression": _grade_expression,
    "word": _grade_word,
    "yes_no": _grade_yes_no,
    "list": _grade_list,
}


@lru_cache(maxsize=4096)
def _plain_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(plain(choice) for choice in choices)


def _grade_option(text: str, wanted: str, choices: tuple[str, ...] | None, same: Same) -> Outcome:
    gold_letter = letter(wanted)
    if choices is None:
        if gold_letter is None:
            raise _Unfit
        answer = lone_letter(text)
        return "unparsed" if answer is None else _verdict(answer == gold_letter)
    options = _plain_choices(choices)
    if gold_letter is not None and gold_letter < len(options):
        gold = frozenset([gold_letter])
    else:
        gold = by_text(wanted, options, _no_match)
    if not gold:
        raise _Unfit
    named = named_options(text, options, same)
    if len(named) > 1 and not named <= gold:
        return "unparsed"
    return _verdict(named <= gold) if named else "unparsed"


def _no_match(answer: str, gold: str) -> bool:
    return False
