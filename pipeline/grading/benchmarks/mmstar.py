"""MMStar-R: MMStar without its perception categories, as the paper cuts it; letters A to D.

The rule is lmms-eval's: a letter is looked for in the shapes below, the most telling shape wins,
and within it the last. Its figure is a mean over the finer categories, not over questions.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.grading.benchmarks.item import Benchmark, Item, Values, lettered, text

_ASK = "Answer with the option's letter from the given choices directly"
_LETTERS = "ABCD"
# After these a letter counts more than one elsewhere. English, Korean, Chinese, Japanese.
_PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is",
    "the best answer is", "best answer is", "the correct option is", "correct option is",
    "the best option is", "best option is", "the choice is", "choice is", "the correct choice is",
    "correct choice is", "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
_SHAPES = ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} "))
_START, _END, _PHRASE = 10, 9, 7


def item(values: Values) -> Item | None:
    """A row of a reasoning category: its question (parquet: with its options) and the request."""
    category = text(values, "category")
    if "perception" in category:
        return None
    choices = tuple(text(values, letter) for letter in _LETTERS if text(values, letter))
    question = text(values, "question")
    if choices:
        question += f"\nOptions:\n{lettered(choices, '{letter}. {choice}')}"
    return Item(
        prompt=f"{question}\n{_ASK}",
        choices=choices,
        answer=text(values, "answer").upper(),
        labels={"category": category, "l2": text(values, "l2_category") or "-"},
    )


def predicted(response: str) -> str:
    """The letter that is read, "" where there is none."""
    inner = response.strip()
    for mark in ",.!?;:'\"":
        inner = inner.strip(mark)
    if not inner.strip():
        return ""
    found = [*_found(f" {inner} ", inner.strip())]
    if not found:
        found = [(0, f" {inner} ".rfind(k), -n, k) for n, k in enumerate(_LETTERS) if k in inner]
    return max(found)[3] if found else ""


def _found(padded: str, inner: str) -> Iterator[tuple[int, int, int, str]]:
    """Every letter in a telling shape: how telling, its place, for ties the earlier letter."""
    lowered = padded.lower()
    for n, letter in enumerate(_LETTERS):
        for weight, shape in _SHAPES:
            if (at := padded.rfind(shape.format(letter))) >= 0:
                yield weight, at, -n, letter
        for phrase in _PHRASES:
            start = lowered.find(phrase)
            if start >= 0 and (at := padded.find(letter, start + len(phrase))) >= 0:
                yield _PHRASE, at, -n, letter
        if inner.startswith(letter) and not inner[1:2].isalpha():
            yield _START, 0, -n, letter
        if inner.endswith(letter) and not inner[-2:-1].isalpha():
            yield _END, len(padded) - 1, -n, letter


def right(response: str, one: Item) -> bool:
    """lmms-eval's rule."""
    return predicted(response) == one.answer


BENCHMARK = Benchmark(
    name="mmstar-r",
    title="MMStar-R",
    forms=("mmstar", "vlmevalkit"),
    split="val",
    files=("mmstar", "MMStar"),
    needs=("l2_category",),
    item=item,
    right=right,
    rule="letter as lmms-eval extracts it",
    by=("category", "l2"),
    mean_over="l2",
)
