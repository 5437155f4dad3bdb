"""Where a response states its answer: our heading, and the shapes that models give before training.

The recipe names which shapes are read besides ours (`prompt.shapes`). They are tried in the order
of `SHAPES`, ours first; the first that a response has decides. What always holds: a shape that
states two different answers states none, and nothing is looked for in what a model thought between
its thinking tags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.responses import extract_answer, has_heading, without_thinking

Shape = Literal["heading", "tag", "boxed", "label", "sentence"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
"""In the order in which they are tried.

heading: "## Answer", "**Final answer**" or "# Answer: 12", the answer on the line or below it;
tag: <answer>12</answer>; boxed: \\boxed{12}; label: a line "Answer: 12";
sentence: "The answer is 12." at the end of the last line.
"""
OURS = "ours"

_LABEL = r"(?:(?:the|my) )?(?:(?:final|correct) )?answer|(?:最终|正确)?答案"
_HEADING = re.compile(
    rf"^[ \t]*(?:#{{1,6}}[ \t]*\**|\*\*)(?:{_LABEL})[ \t]*(?P<end>[:：]?\**[:：]?)"
    r"(?P<inline>[ \t]\S.*|(?<=[:：*])\S.*)?[ \t]*#*[ \t\r]*$",
    re.MULTILINE | re.IGNORECASE,
)
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)[ \t]*\{")
_LINE = re.compile(
    rf"^[ \t>*_-]*(?:{_LABEL})[ \t]*\**[ \t]*[:：][ \t]*\**[ \t]*(?P<answer>\S.*?)[ \t\r]*$",
    re.MULTILINE | re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"(?:^|(?<=[\s,.;:!*(]))(?:the|my|our) (?:(?:final|correct|right) )*(?:answer|option|choice)"
    r" (?:is|=)[ \t]*:?[ \t]*(?P<answer>\S.*)$"
    r"|答案(?:是|为|：|:)[ \t]*(?P<chinese>\S.*)$",
    re.IGNORECASE,
)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_EDGE = " \t\r\n*_"


@dataclass(frozen=True)
class StatedAnswer:
    """What a response gives as its answer, and in which shape ("ours", or one of `SHAPES`)."""

    text: str
    shape: str


def stated_answer(text: str, shapes: Collection[Shape] = ()) -> StatedAnswer | None:
    """The answer of a response; None: there is none, or more than one in the shape it has."""
    answer = extract_answer(text)
    if answer is not None:
        return StatedAnswer(answer, OURS)
    if has_heading(text) and "heading" not in shapes:
        return None
    spoken = without_thinking(text)
    for shape in SHAPES:
        if shape in shapes:
            stated = {item.strip(_EDGE) for item in _READERS[shape](spoken)}
            if stated:
                (answer, *others) = stated
                return None if others or not answer else StatedAnswer(answer, shape)
    return None


def _under_headings(text: str) -> Iterable[str]:
    """What follows each heading: the rest of its line, or all of the text below, one paragraph."""
    headings = list(_HEADING.finditer(text))
    for number, heading in enumerate(headings):
        inline = heading["inline"]
        if inline is not None:
            yield inline
            continue
        last = number + 1 == len(headings)
        below = text[heading.end() : None if last else headings[number + 1].start()].strip()
        yield "" if _BLANK_LINE.search(below) else below


def _boxes(text: str) -> Iterable[str]:
    """What is in each outermost box; a box that is not closed holds nothing."""
    end = 0
    while (box := _BOX.search(text, end)) is not None:
        depth, end = 1, box.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield "" if depth else text[box.end() : end - 1]


def _last_sentence(text: str) -> Iterable[str]:
    last = text.strip().rpartition("\n")[2].strip(_EDGE)
    sentence = _SENTENCE.search(last)
    if sentence is not None:
        yield (sentence["answer"] or sentence["chinese"]).rstrip(".。!* ")


_READERS: dict[Shape, Callable[[str], Iterable[str]]] = {
    "heading": _under_headings,
    "tag": _TAG.findall,
    "boxed": _boxes,
    "label": lambda text: [match["answer"] for match in _LINE.finditer(text)],
    "sentence": _last_sentence,
}
