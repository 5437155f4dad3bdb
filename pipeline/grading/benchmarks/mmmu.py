"""MMMU validation: 900 questions of 30 subjects, with choices or open.

The published rule needs no judge. Where it reads no letter it draws a choice at random; here that
is wrong.
"""

from __future__ import annotations

import re
from ast import literal_eval

from pipeline.grading.benchmarks.item import Benchmark, Item, Values, lettered, text, texts

_CHOOSE = "Answer with the option's letter from the given choices directly."
_OPEN = "Answer the question using a single word or phrase."
_SUBJECT = re.compile(r"(?:dev|validation|test)_(.+)_\d+")
_PLACEHOLDER = re.compile(r"<image (\d)>")
_LONG = 5
_TAILS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NOTHING = frozenset(":,.!?;'")
_SENTENCE = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def item(values: Values) -> Item:
    """A row: the question, its choices as "(A) x", the request. Images stand before the text."""
    choices = texts(values, "options")
    # The images are shown first, so the text says which is meant.
    question = _PLACEHOLDER.sub(r"image \1", text(values, "question"))
    lines = [question, lettered(choices, "({letter}) {choice}")] if choices else [question]
    subject = _SUBJECT.fullmatch(text(values, "id"))
    return Item(
        prompt="\n\n".join([*lines, _CHOOSE if choices else _OPEN]),
        choices=choices,
        answer=text(values, "answer"),
        kind="choice" if choices else "open",
        labels={"subject": subject[1] if subject else "-"},
    )


def predicted(response: str, one: Item) -> str | None:
    """The letter of the published rule; None where it would draw one."""
    for mark in ",.!?;:'":
        response = response.strip(mark)
    response, options = f" {response} ", one.options
    for shape, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        named = [letter for letter in options if shape.format(letter) in response]
        if named:
            return max(named, key=lambda letter: response.rfind(place.format(letter)))
    if len(response.split()) <= _LONG:
        return None
    lowered = response.lower()
    named = [letter for letter, choice in options.items() if choice.lower() in lowered]
    return max(named, key=lambda k: lowered.rfind(options[k].lower())) if named else None


def open_answers(response: str) -> set[str | float]:
    """What the published rule takes an open response to say: tails of sentences, and numbers."""
    whole = response.strip().strip(".").lower()
    sentences = _SENTENCE.split(whole)
    tails = []
    for index, sentence in enumerate(sentences):
        marks = (*_TAILS, "=") if index == len(sentences) - 1 else _TAILS
        found = [sentence.split(mark)[-1].strip() for mark in marks if mark in sentence]
        shortest = _first_shortest(found)
        if shortest and shortest not in _NOTHING:
            tails.append(shortest)
    said = tails or [whole]
    numbers = [n for tail in said for pattern in _NUMBERS for n in pattern.findall(tail)]
    return {form for one in [*said, *numbers] for form in normalised(one)}


def _first_shortest(found: list[str]) -> str:
    """The shortest; one that is empty is passed over when another comes after it."""
    shortest = ""
    for tail in found:
        if not shortest or len(tail) < len(shortest):
            shortest = tail
    return shortest


def normalised(answer: str) -> list[str | float]:
    """A number rounded to two places; else lower case, a single letter with a space beside it."""
    answer = answer.strip()
    try:
        return [round(float(answer.replace(",", "")), 2)]
    except ValueError:
        answer = answer.lower()
    return [f" {answer}", f"{answer} "] if len(answer) == 1 else [answer]


def right(response: str, one: Item) -> bool:
    """The published rule, without its draw."""
    if one.kind == "choice":
        return predicted(response, one) == one.answer
    golds = literal_eval(one.answer) if one.answer.startswith("[") else [one.answer]
    wanted = [form for gold in golds for form in normalised(str(gold))]
    said = open_answers(response)
    texts_said = [form for form in said if isinstance(form, str)]
    return any(
        any(gold in form for form in texts_said) if isinstance(gold, str) else gold in said
        for gold in wanted
    )


BENCHMARK = Benchmark(
    name="mmmu",
    title="MMMU",
    forms=("mmmu",),
    split="validation",
    item=item,
    right=right,
    rule="its own parsing; where it would draw a choice at random, wrong",
    by=("subject",),
)
