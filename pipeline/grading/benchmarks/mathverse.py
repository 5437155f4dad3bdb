"""MathVerse testmini: each problem in versions that say less in words and show more in the image.

Its published rule has one language model extract and another compare. Without them what remains is
that the stated answer equals the gold answer, as texts; the strict figure compares what they mean.
"""

from __future__ import annotations

from pipeline.answer_shapes import SHAPES, stated_answer
from pipeline.grading.benchmarks.item import Benchmark, Item, Values, text


def item(values: Values) -> Item:
    """A row: its own query; the published data bring it ready."""
    nested = values.get("metadata")
    about: Values = nested if isinstance(nested, dict) else values
    return Item(
        prompt=text(values, "query_wo", "question_for_eval", "question"),
        choices=(),
        answer=text(values, "answer"),
        kind=text(values, "question_type") or "free-form",
        labels={
            "version": text(values, "problem_version") or "-",
            "subject": text(about, "subject") or "-",
        },
    )


def right(response: str, one: Item) -> bool:
    """Equal texts, but for spaces around them."""
    stated = stated_answer(response, SHAPES)
    answer = response if stated is None else stated.text
    return answer.strip() == one.answer.strip()


BENCHMARK = Benchmark(
    name="mathverse",
    title="MathVerse",
    forms=("mathverse",),
    split="testmini",
    item=item,
    right=right,
    rule="the stated answer equals the gold answer as text; no extraction and no judge",
    by=("version", "subject"),
)
