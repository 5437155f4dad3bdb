"""MathVista testmini: 1,000 questions of five tasks; a choice, an integer, a float or a list.

The published rule has GPT-4 extract an answer, and takes the choice of the smallest edit distance
where no letter is found: every response gets some answer. Here the answer that a response states is
extracted instead, and the rest is as published. That nearest choice is a figure beside the strict
one, and never a reward. A third figure is by the rule that lmms-eval has for responses that reason
first, where nothing is guessed.
"""

from __future__ import annotations

import re

from pipeline.answer_shapes import SHAPES, stated_answer
from pipeline.grading.benchmarks.item import Benchmark, Item, Values, lettered, text, texts

_HINTS = {
    "choice": "Please answer the question and provide the correct option letter, e.g., A, B, C, D,",
    "integer": "Please answer the question requiring an integer answer and provide the final value,"
    " e.g., 1, 2, 3,",
    "float1": "Please answer the question requiring a floating-point number with one decimal place "
    "and provide the final value, e.g., 1.2, 1.3, 1.4,",
    "float2": "Please answer the question requiring a floating-point number with two decimal places"
    " and provide the final value, e.g., 1.23, 1.34, 1.45,",
    "list": "Please answer the question requiring a Python list as an answer and provide the final "
    "list, e.g., [1, 2, 3], [1.2, 1.3, 1.4],",
}
_LETTER = re.compile(r"\(([a-zA-Z])\)")


def item(values: Values) -> Item:
    """A row: Hint, Question with its unit, Choices."""
    choices = texts(values, "choices")
    # Parquet holds it as a float, which `round` refuses.
    precision = int(float(values["precision"])) if text(values, "precision") else None
    kind = "choice" if choices else text(values, "answer_type")
    hint = _HINTS.get(f"float{precision}" if kind == "float" else kind, "")
    unit = text(values, "unit")
    # A question keeps the spaces that it has.
    lines = [f"Question: {values['question']}" + (f" (Unit: {unit})" if unit else "")]
    lines = [f"Hint: {hint} at the end.", *lines] if hint else lines
    if choices:
        lines += ["Choices:", lettered(choices, "({letter}) {choice}")]
    nested = values.get("metadata")
    about: Values = nested if isinstance(nested, dict) else values
    return Item(
        prompt="\n".join(lines),
        choices=choices,
        answer=text(values, "answer"),
        kind=kind,
        precision=precision,
        labels={name: text(about, name) or "-" for name in ("task", "source")},
    )


def extracted(response: str, one: Item) -> str:
    """What of a response is normalised: itself where it is an answer as a whole, else what it
    states."""
    if one.kind == "choice" and response in one.choices:
        return response
    if one.kind in ("integer", "float") and _number(response) is not None:
        return response
    stated = stated_answer(response, SHAPES)
    return response if stated is None else stated.text


def normalised(answer: str, one: Item) -> str | None:
    """An extracted answer as the published rule compares it; None: it is none."""
    if one.kind == "choice":
        answer = answer.strip()
        letter = _LETTER.search(answer)
        answer = letter[1].upper() if letter else answer
        return one.options.get(answer) or nearest(answer, one.choices)
    value = _number(answer)
    if one.kind == "integer":
        return None if value is None else str(int(value))
    if one.kind == "float":
        return None if value is None else str(round(value, one.precision))
    return answer


def _number(answer: str) -> float | None:
    """As Python reads a number; None for text and for what is not finite."""
    try:
        value = float(answer)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def nearest(answer: str, choices: tuple[str, ...]) -> str:
    """The first choice of the smallest edit distance."""
    return min(choices, key=lambda choice: edit_distance(answer, choice))


def edit_distance(one: str, other: str) -> int:
    """How many characters have to be inserted, removed or replaced (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        above, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def right(response: str, one: Item) -> bool:
    """The published rule, but for GPT-4's extraction."""
    return normalised(extracted(response, one), one) == one.answer


BENCHMARK = Benchmark(
    name="mathvista",
    title="MathVista",
    forms=("mathvista",),
    split="testmini",
    files=("testmini", "MathVista_MINI"),
    item=item,
    right=right,
    rule="normalised answer, nearest choice by edit distance; the stated answer instead of GPT-4's",
    by=("task", "source"),
    reasoning=True,
)
