"""MMBench-R: MMBench dev v1.1 without its perception categories, as the paper cuts it; circular.

A question is asked once for each rotation of its choices, and counts when all of them are right.
The rule is VLMEvalKit's exact matching: one letter among the last words, else one choice's text,
never a guess.
"""

from __future__ import annotations

from pipeline.grading.benchmarks.item import Benchmark, Item, Values, lettered, text
from pipeline.query import LETTERS

ROTATION = 1_000_000
"""From this index on a row is a rotation of the row with the rest of the index."""
_ASK = "Please select the correct answer from the options above. "
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 5
_REFUSALS = (
    "Failed to obtain answer via API", "Sorry, I can't help with images of people yet.",
    "I can't process this file.", "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)  # fmt: skip


def item(values: Values) -> Item | None:
    """A row of a reasoning category: hint, question, options, request."""
    finer = text(values, "l2-category", "L2-category")
    if "perception" in finer:
        return None
    choices = tuple(text(values, letter) for letter in LETTERS if text(values, letter))
    hint = text(values, "hint")
    prompt = f"Hint: {hint}\n" if hint else ""
    prompt += f"Question: {text(values, 'question')}\nOptions:\n"
    return Item(
        prompt=f"{prompt}{lettered(choices, '{letter}. {choice}')}\n{_ASK}".rstrip(),
        choices=choices,
        answer=text(values, "answer"),
        labels={"l2": finer or "-", "category": text(values, "category") or "-"},
        group=str(int(float(text(values, "index"))) % ROTATION),
    )


def predicted(response: str, one: Item) -> str | None:
    """The letter that exact matching infers; None: none."""
    if any(refusal in response for refusal in _REFUSALS):
        return None
    words = response.translate(_SEPARATORS).split()
    letters = [letter for letter in one.options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - _LAST_WORDS:
        return letters[0]
    if not letters and "Z" in words:
        return None
    if len(response) > 2 * sum(map(len, one.choices)):
        return None
    lowered = response.lower()
    named = [letter for letter, choice in one.options.items() if choice.lower() in lowered]
    return named[0] if len(named) == 1 else None


def right(response: str, one: Item) -> bool:
    """VLMEvalKit's exact matching."""
    return predicted(response, one) == one.answer


BENCHMARK = Benchmark(
    name="mmbench-r",
    title="MMBench-R",
    forms=("vlmevalkit",),
    split="dev",
    files=("mmbench", "MMBench_DEV_EN_V11"),
    needs=("l2-category",),
    item=item,
    right=right,
    rule="VLMEvalKit's exact matching; a question counts when all its rotations are right",
    by=("l2", "category"),
)
