"""AI2D test: 3,088 questions about diagrams of natural science.

The rule is lmms-eval's: "A." at the start, else the complete response, equal to the letter but for
case and punctuation. Figures depend on whether letters are burnt into the images (AI2D_TEST) or not
(AI2D_TEST_NO_MASK), so results name the file.
"""

from __future__ import annotations

import re
import string

from pipeline.grading.benchmarks.item import Benchmark, Item, Values, lettered, text, texts
from pipeline.query import LETTERS

_ASK = "Answer with the option's letter from the given choices directly."
_FIRST = re.compile(r"^\s*([A-Z])\.")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def item(values: Values) -> Item:
    """A row of the parquet form (options, and an index from 0) or of VLMEvalKit's table."""
    choices = texts(values, "options") or tuple(
        text(values, letter) for letter in LETTERS if text(values, letter)
    )
    answer = text(values, "answer")
    return Item(
        prompt=f"{text(values, 'question')}\n{lettered(choices, '{letter}. {choice}')}\n{_ASK}",
        choices=choices,
        answer=LETTERS[int(answer)] if answer.isdecimal() else answer,
    )


def right(response: str, one: Item) -> bool:
    """lmms-eval's rule."""
    first = _FIRST.match(response)
    answer = first[1] if first else response
    return answer.lower().translate(_NO_PUNCTUATION) == one.answer.lower()


BENCHMARK = Benchmark(
    name="ai2d",
    title="AI2D",
    forms=("ai2d", "vlmevalkit"),
    split="test",
    files=("AI2D_TEST", "AI2D_TEST_NO_MASK"),
    item=item,
    right=right,
    rule="lmms-eval's: the letter before a full stop, or the complete response",
)
