"""Whether a response's answer is the gold answer: `correct`, `wrong` or `unparsed`.

    response --stated_answer--> answer --plain--> text --read--> form --same--> outcome
                   |                        |              |
                   `--None                  `--""          `--Unreadable: unparsed

What always holds: the outcome is a function of answer, gold answer, type and choices alone.
`unparsed` is an answer that cannot be read as its type or can be read in two ways; an ambiguous
answer is never settled by a guess, and no option is taken for being similar (paper section 7,
points 8, 9, 11). A comparison that the library under `algebra` fails at is `unparsed` too, with the
reason, for the run's log. An answer may take for ever: `actors.grading` calls this in processes,
adds the fourth outcome, `timeout`, and kills what overruns.

The rules, by answer type (docs/grading.md):
* `number`: a numeral, fraction, percentage, with or without a unit, or an exact form with roots, π,
  logarithms or angles. A calculation ("3+4") is no number: a policy that is paid for it stops
  before the arithmetic.
* `expression`: any form of `forms`, by the rules of `compare`.
* `letter`, and every query with choices: by letter, by the option's text, or both if they agree.
* `word`: equal text, but for case, quotes, articles and hyphens; the same time; the same number.
* `yes_no`: also true and false, 是 and 否.
* `list`: item by item, in order; in any order if the gold answer has braces, "or" or ±.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Literal, get_args

from pipeline.answer_shapes import SHAPES, Shape, stated_answer
from pipeline.errors import BadData
from pipeline.grading import algebra
from pipeline.grading.algebra import Failed
from pipeline.grading.answers import is_mathematical, plain, read_time, read_yes_no, words
from pipeline.grading.arithmetic import Undefined, is_whole
from pipeline.grading.choices import letter, lone_letter, named_options
from pipeline.grading.compare import numeral, same, same_items
from pipeline.grading.forms import (
    Apply,
    Based,
    Constant,
    Expression,
    Form,
    Named,
    Sequence,
    Term,
    Text,
    Unreadable,
    nodes,
    symbols,
    terms_of,
)
from pipeline.grading.quantities import Quantity, read_quantity, same_quantity
from pipeline.grading.reading import gathered, read, read_element, read_elements, read_number
from pipeline.grading.units import is_operator
from pipeline.query import AnswerType, Query

Outcome = Literal["correct", "wrong", "unparsed", "timeout"]

# Part of every grade's key: to be raised when a rule changes; the library's version is in it.
GRADER_VERSION = f"3-mpmath-{version('mpmath')}"


def grader_version(shapes: Collection[Shape] = ()) -> str:
    """The grader that reads answers in these shapes besides ours: part of what a run is."""
    return "+".join([GRADER_VERSION, *(shape for shape in SHAPES if shape in shapes)])


# A longer text is no answer, and would cost the patterns more than an answer is worth.
MAX_ANSWER_CHARS = 1000


@dataclass(frozen=True)
class Gold:
    """What an answer is compared with; `query_id` is for messages only."""

    query_id: str
    answer: str
    answer_type: AnswerType
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Verdict:
    """An outcome; reason: why a comparison failed that should have been possible."""

    outcome: Outcome
    reason: str | None = None


_VERDICTS: dict[Outcome, Verdict] = {outcome: Verdict(outcome) for outcome in get_args(Outcome)}


def gold_of(query: Query) -> Gold:
    """What to grade this query's answers against; a hidden answer is never it.

    Raises:
        BadData: when the query has no gold answer, or one that counts as hidden.
    """
    if query.unlabelled:
        raise BadData(
            f"query {query.query_id} is unlabelled: its answer is hidden and grades nothing"
        )
    if query.answer is None:
        raise BadData(f"query {query.query_id}: no gold answer to grade against")
    return Gold(query.query_id, query.answer, query.answer_type, query.choices)


def grade(response_text: str, query: Query, shapes: Collection[Shape] = ()) -> Outcome:
    """The outcome of one response, in this process and without a deadline."""
    stated = stated_answer(response_text, shapes)
    return "unparsed" if stated is None else grade_answer(stated.text, gold_of(query))


def grade_answer(answer: str, gold: Gold) -> Outcome:
    """The outcome of one extracted answer; may take for ever.

    Raises:
        BadData: when the gold answer itself cannot be read as its type.
    """
    return judge(answer, gold).outcome


def judge(answer: str, gold: Gold) -> Verdict:
    """The outcome of one extracted answer, and why it could not be compared; may take for ever.

    Raises:
        BadData: when the gold answer itself cannot be read as its type.
    """
    wanted = _plain(gold.answer)
    try:
        rule = _rule(gold, wanted)
    except (_Unfit, Unreadable, Undefined, Failed) as error:
        raise BadData(f"query {gold.query_id}: {unreadable_gold(gold)}") from error
    text = plain(answer) if len(answer) <= MAX_ANSWER_CHARS else ""
    if not text:
        return Verdict("unparsed")
    try:
        return _VERDICTS[rule(text, wanted)]
    except (Unreadable, Undefined):
        return _VERDICTS["unparsed"]
    except Failed as error:
        return Verdict(
            "unparsed", f"{answer!r} could not be compared with {gold.answer!r}: {error}"
        )


def check_gold(gold: Gold) -> str | None:
    """What is wrong with a gold answer, or None. What passes is never refused when it is graded."""
    if len(gold.answer) > MAX_ANSWER_CHARS:
        return (
            f"the answer has {len(gold.answer)} characters, and none of more than "
            f"{MAX_ANSWER_CHARS} is graded; shorten it, or set unlabelled to true"
        )
    try:
        judge("?", gold)
    except BadData:
        return unreadable_gold(gold)
    return None


def unreadable_gold(gold: Gold) -> str:
    """That a gold answer is not of its type, and what to do about it."""
    kind = "one of its choices" if gold.choices is not None else f"answer_type {gold.answer_type}"
    return (
        f"cannot read the gold answer {gold.answer!r} as {kind}; "
        "correct the answer or its answer_type"
    )


class _Unfit(Exception):
    """A gold answer that is not of its type."""


_Rule = Callable[[str, str], Outcome]


def _rule(gold: Gold, wanted: str) -> _Rule:
    """How answers are compared with this gold answer.

    Raises:
        _Unfit, Unreadable, Undefined, Failed: when it is not of its type.
    """
    if not wanted:
        raise _Unfit
    if gold.choices is None and gold.answer_type != "letter":
        _CHECKS[gold.answer_type](wanted)
        return _RULES[gold.answer_type]
    options = None if gold.choices is None else _plain_choices(gold.choices)
    letters = _gold_letters(wanted, options)
    return lambda text, _: _grade_option(text, letters, options)


@lru_cache(maxsize=8192)
def _plain(text: str) -> str:
    return plain(text)


def _verdict(is_same: bool) -> Outcome:
    return "correct" if is_same else "wrong"


# -- numbers and expressions -------------------------------------------------------------------


@lru_cache(maxsize=8192)
def _check_number(wanted: str) -> None:
    if not _is_number(_checked(read_number(wanted))):
        raise _Unfit


def _grade_number(text: str, wanted: str) -> Outcome:
    if text == wanted:
        return "correct"
    answer, gold = read_number(text), read_number(wanted)
    if isinstance(answer, Quantity) and isinstance(gold, Quantity):
        return _verdict(same_quantity(answer, gold))
    return _verdict(same(answer, gold)) if _is_number(answer) else "unparsed"


def _is_number(form: Form) -> bool:
    """Whether a form is a number, and no calculation."""
    if isinstance(form, Quantity):
        return True
    value = form.value if isinstance(form, Named) else form
    if isinstance(value, Expression):
        value = numeral(value)
    if isinstance(value, Expression):
        return not symbols(value.term) and any(map(_needs_algebra, nodes(value.term)))
    return isinstance(value, Quantity | Based)


def _needs_algebra(node: Term) -> bool:
    if isinstance(node, Constant):
        return True
    if not isinstance(node, Apply):
        return False
    return node.op not in _CALCULATIONS or (node.op == "^" and not is_whole(node.args[1]))


_CALCULATIONS = frozenset(
    [
        "+",
        "neg",
        "*",
        "/",
        "^",
        "!",
        "abs",
        "binom",
        "max",
        "min",
        "gcd",
        "lcm",
        "floor",
        "ceil",
        "deg",
    ]
)


@lru_cache(maxsize=8192)
def _check_expression(wanted: str) -> None:
    if read_time(wanted) is None:
        _checked(read(wanted))


def _grade_expression(text: str, wanted: str) -> Outcome:
    if text == wanted:
        return "correct"
    time = read_time(wanted)
    if time is not None:  # "9:30" could be a ratio too, and 3:10 is the same one
        return _verdict(read_time(text) == time)
    return _verdict(same(read(text), read(wanted)))


def _checked(form: Form) -> Form:
    """The form of a gold answer.

    Raises:
        _Unfit, Undefined, Failed: when nothing can be compared with it.
    """
    for value in terms_of(form):
        if isinstance(value, Quantity):
            if value.unit is not None and is_operator(value.unit):
                raise _Unfit
        else:
            algebra.check(value)
    return form


# -- words and lists ---------------------------------------------------------------------------


def _check_word(wanted: str) -> None:
    if not words(wanted):
        raise _Unfit


def _grade_word(text: str, wanted: str) -> Outcome:
    if not words(text):
        return "unparsed"
    if is_mathematical(text) or is_mathematical(wanted):
        return _verdict(
            text.replace(" ", "") == wanted.replace(" ", "") or _same_texts(text, wanted)
        )
    if words(text) == words(wanted):
        return "correct"
    times = read_time(text), read_time(wanted)
    if times[0] is not None and times[1] is not None:
        return _verdict(times[0] == times[1])
    if _CODE.match(text) or _CODE.match(wanted):
        return "wrong"
    answer, gold = read_quantity(text), read_quantity(wanted)
    return _verdict(answer is not None and gold is not None and same(answer, gold, rounding=False))


# "007" is no 7 where it is a word.
_CODE = re.compile(r"0\d")


def _same_texts(text: str, wanted: str) -> bool:
    """Whether two texts state the same exactly; words alone are left to the caller."""
    answer, gold = read_element(text), read_element(wanted)
    if isinstance(answer, Text) or isinstance(gold, Text):
        return False
    return same(answer, gold, rounding=False)


def _check_yes_no(wanted: str) -> None:
    if read_yes_no(wanted) is None:
        raise _Unfit


def _grade_yes_no(text: str, wanted: str) -> Outcome:
    answer = read_yes_no(text)
    return "unparsed" if answer is None else _verdict(answer == read_yes_no(wanted))


@lru_cache(maxsize=8192)
def _check_list(wanted: str) -> None:
    elements = read_elements(wanted)
    if elements is None:
        raise _Unfit
    _checked(elements)


def _grade_list(text: str, wanted: str) -> Outcome:
    if text == wanted:
        return "correct"
    answer, gold = read_elements(text), read_elements(wanted)
    if answer is None or gold is None:
        return "unparsed"
    named = [_gathered(form) for form in (answer, gold)]
    if all(isinstance(form, Sequence) for form in named):
        return _verdict(same_items(answer.items, gold.items, ordered=gold.ordered))
    return _verdict(same(*named))


def _gathered(elements: Sequence) -> Form:
    try:
        return gathered(elements)
    except Unreadable:
        return elements


_CHECKS: dict[AnswerType, Callable[[str], None]] = {
    "number": _check_number,
    "expression": _check_expression,
    "word": _check_word,
    "yes_no": _check_yes_no,
    "list": _check_list,
}
_RULES: dict[AnswerType, _Rule] = {
    "number": _grade_number,
    "expression": _grade_expression,
    "word": _grade_word,
    "yes_no": _grade_yes_no,
    "list": _grade_list,
}


# -- options -----------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _plain_choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(plain(choice) for choice in choices)


@lru_cache(maxsize=8192)
def _gold_letters(wanted: str, options: tuple[str, ...] | None) -> frozenset[int]:
    """The options that a gold answer names, by letter or by text.

    Raises:
        _Unfit: when there is none.
    """
    index = letter(wanted)
    if options is None and index is None:
        raise _Unfit
    if index is not None and (options is None or index < len(options)):
        return frozenset([index])
    named = named_options(wanted, options or (), _same_option)
    if not named:
        raise _Unfit
    return named


def gold_options(answer: str, choices: tuple[str, ...]) -> frozenset[int]:
    """The options that the gold answer of a row can mean, by letter, by text or by both."""
    return named_options(plain(answer), _plain_choices(choices), _same_option)


def _grade_option(text: str, gold: frozenset[int], options: tuple[str, ...] | None) -> Outcome:
    if options is None:
        answer = lone_letter(text)
        return "unparsed" if answer is None else _verdict(answer in gold)
    named = named_options(text, options, _same_option)
    if not named or (len(named) > 1 and not named <= gold):
        return "unparsed"
    return _verdict(named <= gold)


def _same_option(text: str, choice: str) -> bool:
    """Whether a text is that of a choice; of two that have no value, it is not."""
    try:
        return _same_texts(text, choice)
    except (Undefined, Failed):
        return False
