"""M3CoT test: 2,318 questions of science, commonsense and mathematics, with two to seven choices.

The published rule needs no judge. It looks for the last "(X)", else for the texts of choices, else
for letters that stand alone. It knows letters to F only and fails on a seventh choice; here it goes
to G.
"""

from __future__ import annotations

import re

from pipeline.grading.benchmarks.item import Benchmark, Item, Values, lettered, text, texts

_IN_BRACKETS = re.compile(r"\(([A-Za-z])\)")
_MARKS = re.compile(r"[\n.,!?]")


def item(values: Values) -> Item:
    """A row: context, question and choices under headings in square brackets."""
    choices = texts(values, "choices")
    context = text(values, "context")
    prompt = f"[Context]\n{context}\n\n" if context else ""
    prompt += f"[Question]\n{text(values, 'question')}\n[Choices]\n"
    return Item(
        prompt=prompt + lettered(choices, "({letter}) {choice}"),
        choices=choices,
        answer=text(values, "answer"),
        labels={name: text(values, name) or "-" for name in ("domain", "topic")},
    )


def predicted(response: str, one: Item) -> str | None:
    """The letter that the published rule reads, None where it fails."""
    if "[Answer]" in response:
        response = response.rpartition("[Answer]")[2].split("[Rationale]")[0].split("[Context]")[0]
    brackets = _IN_BRACKETS.findall(response)
    if brackets:
        return str(brackets[-1]).upper()
    named = [k for k, choice in one.options.items() if choice.lower() in response.lower()]
    words = set(_MARKS.sub(" ", response).split(" "))
    named = named or [k for k in one.options if k in words]
    named = named or [k for k in one.options if k.lower() in words]
    return named[-1] if named else None


def right(response: str, one: Item) -> bool:
    """The published rule."""
    return predicted(response, one) == one.answer


BENCHMARK = Benchmark(
    name="m3cot",
    title="M3CoT",
    forms=("m3cot",),
    split="test",
    item=item,
    right=right,
    rule="judge_answer of its repository, letters to G",
    by=("domain", "topic"),
)
