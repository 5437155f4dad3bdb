"""Which option of a multiple-choice question an answer names: by letter, by text, or by both.

What always holds: all readings of an answer are found, not the first. An answer whose letter and
text name different options names none, and a text that fits two options has two readings; what to
do then is the caller's decision. Nothing is chosen for being similar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipeline.grading.answers import words
from pipeline.grading.expressions import MATHEMATICAL, Unreadable, UnreadableGold
from pipeline.grading.quantities import read_quantity, same_quantity
from pipeline.query import LETTERS

# Compares two expressions; raises `Unreadable` or `UnreadableGold` (`expressions.same_expression`).
Same = Callable[[str, str], bool]

# Case folding of ASCII only: in Unicode the Kelvin sign is a "k".
_FOLD = re.IGNORECASE | re.ASCII

_PREFIX = r"(?:(?:option|choice|answer|letter)\s+)?"

_LETTER = re.compile(
    rf"{_PREFIX}(?:\(\s*([A-Z])\s*\)|\[\s*([A-Z])\s*\]|\{{\s*([A-Z])\s*\}}|([A-Z])\s*\)?)", _FOLD
)

_LABELLED = re.compile(
    rf"{_PREFIX}(?:\(\s*([A-Z])\s*\)\s*[.:-]?|\[\s*([A-Z])\s*\]\s*[.:-]?"
    r"|([A-Z])\s*[.:)]|([A-Z])\s+-(?=\s))\s*(?P<text>\S.*)",
    _FOLD,
)

_LOOSE = re.compile(r"([A-Z])\s+(?P<text>\S.*)", re.ASCII)

_SECOND = re.compile(r"[(\[]\s*[A-Z]\s*[)\]]|\b(?:and|or|not|nor)\b", _FOLD)


def lone_letter(text: str) -> int | None:
    """The index of the only letter named, where the options are not known; None without one.

    A text after the letter ("B: 12") cannot be checked here; it must not name a second letter.
    """
    index = letter(text)
    if index is not None:
        return index
    match = _LABELLED.fullmatch(text)
    if match is None or _SECOND.search(match["text"]) or letter(match["text"]) is not None:
        return None
    return _index(match)


def letter(text: str) -> int | None:
    """The index of the letter that all of `text` is: "B", "(b)", "B)", "option B"."""
    match = _LETTER.fullmatch(text)
    return None if match is None else _index(match)


def named_options(text: str, choices: Sequence[str], same: Same) -> frozenset[int]:
    """Every option that `text` can be read as; empty when there is none, or a contradiction."""
    verbatim = frozenset(i for i, choice in enumerate(choices) if choice.lower() == text.lower())
    index = letter(text)
    if index is not None:
        return verbatim | ({index} if index < len(choices) else frozenset())
    if verbatim:
        return verbatim
    match = _LABELLED.fullmatch(text)
    if match is not None and _index(match) < len(choices):
        return by_text(match["text"], choices, same) & {_index(match)}
    found = by_text(text, choices, same)
    # "B 12", but also "A dog": a capital and a space may be a letter, so they must not disagree.
    loose = _LOOSE.fullmatch(text)
    if loose is not None and _index(loose) < len(choices):
        named = by_text(loose["text"], choices, same) & {_index(loose)}
        return named if not found or found == named else frozenset()
    return found


def by_text(text: str, choices: Sequence[str], same: Same) -> frozenset[int]:
    """The options with this text: equal words, else equal numbers, else equal expressions.

    Numbers are compared exactly: "1.25" must not fit an option "1.2" by rounding.
    """
    plain_words = words(text)
    found = {i for i, choice in enumerate(choices) if words(choice) == plain_words}
    number = read_quantity(text)
    if not found and number is not None:
        options = [read_quantity(choice) for choice in choices]
        found = {
            i
            for i, option in enumerate(options)
            if option is not None and same_quantity(number, option, rounding=False)
        }
    if not found and MATHEMATICAL.search(text):
        found = {i for i, choice in enumerate(choices) if _same_expression(text, choice, same)}
    return frozenset(found)


def _same_expression(text: str, choice: str, same: Same) -> bool:
    if read_quantity(text) is not None and read_quantity(choice) is not None:
        return False
    if not MATHEMATICAL.search(choice):
        return False
    try:
        return same(text, choice)
    except (Unreadable, UnreadableGold):
        return False


def _index(match: re.Match[str]) -> int:
    named = next(group for group in match.groups() if group)
    return LETTERS.index(named.upper())
