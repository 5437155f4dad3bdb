"""Reading a step of a response: text in whatever wording to the statements it makes.

A step is consumed from left to right, statement by statement, with connectives between them. Text
that is neither makes the whole step unreadable: nothing is skipped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

CELL = r"(?:the )?(?P<cell>(?:top|bottom) (?:left|right)|left|right)(?: digit| cell)?"
NUM = r"\d{1,3}"
SIGNED = r"-?\d{1,3}"
LIST = rf"(?P<list>{NUM}(?:,? (?:and )?{NUM})*)"
IS = r"(?:is|shows|reads|equals|gives|makes|=|:)"
PAIR_IS = rf"(?P<a>{NUM}) (?:and|to) (?P<b>{NUM}) {IS} (?P<n>{NUM})"


@dataclass(frozen=True)
class Statement:
    """One assertion: its kind, the numbers it rests on, what it claims, and of which place."""

    kind: str
    operands: tuple[int, ...]
    claim: str
    where: str = ""


_OPERATIONS = {"+": "plus", "-": "minus", "x": "times"}
_RELATIONS = {
    "larger than": ">",
    "greater than": ">",
    "more than": ">",
    "smaller than": "<",
    "less than": "<",
    "equals": "=",
}


def _pair(match: re.Match[str]) -> tuple[int, int]:
    return int(match["a"]), int(match["b"])


def _listed(match: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", match["list"]))


def _reading(match: re.Match[str]) -> Statement:
    return Statement("reading", (), match["n"], match["cell"])


def _number(match: re.Match[str]) -> Statement:
    return Statement("number", _pair(match), match["n"])


def _extreme(match: re.Match[str]) -> Statement:
    return Statement(match["extreme"], _listed(match), match["n"])


_EXTREME = r"the (?P<extreme>largest|smallest)"
_OPERATOR = r"(?P<op>plus|minus|times|\+|-|x)"
_RELATION = (
    r"(?:is )?(?P<op>larger than|greater than|more than|smaller than|less than|equals|>|<|=)"
)

# What a pattern reads. Where two could match at one place, the earlier one wins.
_READERS: list[tuple[str, Callable[[re.Match[str]], Statement]]] = [
    (rf"(?:i )?(?:read|see) (?:an? )?(?P<n>\d) (?:at|in) {CELL}", _reading),
    (rf"at {CELL} i (?:read|see) (?:an? )?(?P<n>\d)\b", _reading),
    (rf"{CELL} ?{IS} (?:an? )?(?P<n>\d)\b", _reading),
    (rf"(?P<a>{NUM}) ?{_OPERATOR} ?(?P<b>{NUM}) ?{IS} ?(?P<n>{SIGNED})\b",
     lambda m: Statement(_OPERATIONS.get(m["op"], m["op"]), _pair(m), m["n"])),
    (rf"(?P<a>\d) tens and (?P<b>\d) {IS} (?P<n>{NUM})\b", _number),
    (rf"(?P<a>\d) followed by (?P<b>\d) {IS} (?P<n>{NUM})\b", _number),
    (rf"adding {PAIR_IS}\b", lambda m: Statement("plus", _pair(m), m["n"])),
    (rf"from {PAIR_IS}\b", lambda m: Statement("minus", _pair(m)[::-1], m["n"])),
    (rf"{_EXTREME} of {LIST} {IS} (?P<n>{NUM})\b", _extreme),
    (rf"among {LIST},? {_EXTREME} {IS} (?P<n>{NUM})\b", _extreme),
    (rf"(?P<a>{NUM}) ?{_RELATION} ?(?P<b>{NUM})\b",
     lambda m: Statement("compare", _pair(m), _RELATIONS.get(m["op"], m["op"]))),
    (rf"(?P<a>{NUM}) is (?:an? )?(?P<parity>even|odd)\b(?: number)?",
     lambda m: Statement("parity", (int(m["a"]),), m["parity"])),
    (r"option (?P<letter>[a-d])\b", lambda m: Statement("option", (), m["letter"].upper())),
]  # fmt: skip
_COMPILED = [(re.compile(pattern), make) for pattern, make in _READERS]
_CONNECTIVE = re.compile(
    r"\s+|[.,;:]|(?:and|so|then|first|next|now|that is|this is|therefore|that|we have)\b"
)


def read_step(step: str) -> list[Statement] | None:
    """The statements of a step in order, or None when some of its text is not understood."""
    text, position = step.lower(), 0
    found: list[Statement] = []
    while position < len(text):
        for pattern, make in _COMPILED:
            match = pattern.match(text, position)
            if match:
                found.append(make(match))
                break
        else:
            match = _CONNECTIVE.match(text, position)
            if not match:
                return None
        position = match.end()
    return found or None
