"""lmms-eval's rule for responses that reason first (`mathvista_testmini_cot_reasoning`), no judge.

The answer is what stands in <answer> tags, else in the last box, else a number that ends a line. It
is right where it says the letter of the gold choice, or nearly the text of the gold answer; other
answers than choices also where they have the gold answer's value, which this project's grader
decides in the place of math-verify.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.grading.benchmarks.item import Item

WORDS = "lmms-eval's for reasoning: answer tags, last box or a number at the end; equal in value"

_BOX = "\\boxed{"
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER_AT_END = re.compile(r"\b(\d+(?:\.\d+)?)\b(?:\s*\.?\s*$)")
_LETTERS = "ABCDEFGH"
_MARKS = ",.!?;:'\""
# The most telling first: a letter at the start, at the end, numbered, after a phrase, in a shape.
_START, _END, _NUMBERED, _PHRASE = 10, 9, 8, 7
_SHAPES = (
    (6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} "), (1, "{}-"), (1, "{}_"), (1, "{}="),
)  # fmt: skip
_PHRASES = (
    *(f"{the}{kind}answer{verb}" for the in ("the ", "") for kind in ("correct ", "best ", "")
      for verb in (" is", "")),
    "the option is", "option is", "the correct option is", "correct option is", "the choice is",
    "choice is", "the correct choice is", "correct choice is", "i choose", "i select", "i pick",
    "my answer is", "my choice is",
)  # fmt: skip
_NEARLY = 0.9


def extracted(response: str) -> str:
    """What of a response is compared; "": nothing."""
    tag = _TAG.search(response)
    if tag:
        return tag[1].strip()
    box = _last_box(response).strip()
    if box:
        return box
    lines = reversed(response.strip().split("\n"))
    return next((found[1] for line in lines if (found := _NUMBER_AT_END.search(line))), "")


def _last_box(response: str) -> str:
    """What is in the last box that is closed, also of one inside another; "": nothing."""
    start = len(response)
    while (start := response.rfind(_BOX, 0, start)) >= 0:
        depth, inside = 1, start + len(_BOX)
        for end in range(inside, len(response)):
            depth += {"{": 1, "}": -1}.get(response[end], 0)
            if not depth:
                return response[inside:end]
    return ""


def equal_text(answer: str, one: Item) -> bool:
    """An extracted answer says the gold letter, or the gold text but for a tenth of its length."""
    said, gold = _plain(answer), _plain(gold_of(one))
    if letter(gold):
        return letter(said) == letter(gold)
    short, long = sorted((said, gold), key=len)
    return (short in long and len(short) >= _NEARLY * len(long)) or said == gold


def gold_of(one: Item) -> str:
    """The letter of the gold choice; without choices the answer."""
    letters = [letter for letter, choice in one.options.items() if choice == one.answer]
    return letters[0] if letters else one.answer


def letter(answer: str) -> str:
    """The letter that is read in an answer, the first in the most telling place; "": none."""
    inner = answer.strip()
    for mark in _MARKS:
        inner = inner.strip(mark)
    padded = f" {inner} "
    found = [*_found(padded)] or [(0, -padded.rfind(k), k) for k in _LETTERS if k in padded]
    return max(found)[2] if found else ""


def _found(padded: str) -> Iterator[tuple[int, int, str]]:
    inner, lowered = padded.strip(), padded.lower()
    for number, k in enumerate(_LETTERS, start=1):
        for weight, shape in (*_SHAPES, (_NUMBERED, f"{number}. {{}}")):
            if (at := padded.rfind(shape.format(k))) >= 0:
                yield weight, -at, k
        for phrase in _PHRASES:
            start = lowered.find(phrase)
            if start >= 0 and (at := padded.find(k, start)) >= 0:
                yield _PHRASE, -at, k
        if inner.startswith(k):
            yield _START, 0, k
        if inner.endswith(k):
            yield _END, 1 - len(padded), k


def _plain(answer: str) -> str:
    return answer.removesuffix(".").strip()
