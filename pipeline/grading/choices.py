"""Which option of a multiple-choice question an answer names: by letter, by text, or by both.

What always holds: all readings of an answer are found, not the first. An answer whose letter and
text name different options names none, and a text that fits two options has two readings; what to
do then is the caller's decision. Nothing is chosen for being similar. Case counts in mathematics
(R - r is not r - R), not in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipeline.grading.answers import is_mathematical, words
from pipeline.grading.forms import Text
from pipeline.grading.quantities import read_quantity
from pipeline.grading.reading import read_element
from pipeline.query import LETTERS

# Whether two texts state the same, exactly: `grade.same_texts`.
Same = Callable[[str, str], bool]

# Case folding of ASCII only: in Unicode the Kelvin sign is a "k".
_FOLD = re.IGNORECASE | re.ASCII
_PREFIX = r"(?:(?:option|choice|answer|letter)\s+|选项\s*)?"
_LETTER = re.compile(
    rf"{_PREFIX}(?:\(\s*([A-Z])\s*\)|\[\s*([A-Z])\s*\]|\{{\s*([A-Z])\s*\}}|([A-Z])\s*[)项]?)", _FOLD
)
_LABELLED = re.compile(
    rf"{_PREFIX}(?:\(\s*([A-Z])\s*\)\s*[.:、-]?|\[\s*([A-Z])\s*\]\s*[.:、-]?"
    r"|([A-Z])\s*[.:)、]|([A-Z])\s+-(?=\s))\s*(?P<text>\S.*)",
    _FOLD,
)
_AFTER = re.compile(r"(?P<text>.*\S)\s*[(\[]\s*([A-Z])\s*[)\]]", re.ASCII)
_LOOSE = re.compile(r"([A-Z])\s+(?P<text>\S.*)", re.ASCII)
_SECOND = re.compile(r"[(\[]\s*[A-Z]\s*[)\]]|\b(?:and|or|not|nor)\b|[或和、]", _FOLD)


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
    verbatim = _verbatim(text, choices)
    index = letter(text)
    if index is not None:
        return verbatim | ({index} if index < len(choices) else frozenset())
    if verbatim:
        return verbatim
    for labelled in (_LABELLED, _AFTER):  # "B: 9", "9 (B)"
        match = labelled.fullmatch(text)
        if match is not None and _index(match) < len(choices):
            return by_text(match["text"], choices, same) & {_index(match)}
    found = by_text(text, choices, same)
    # "B 12", but also "A dog": a capital and a space may be a letter, so they must not disagree.
    loose = _LOOSE.fullmatch(text)
    if loose is not None and _index(loose) < len(choices):
        named = by_text(loose["text"], choices, same) & {_index(loose)}
        return named if not found or found == named else frozenset()
    return found


def _verbatim(text: str, choices: Sequence[str]) -> frozenset[int]:
    """The options with this very text, but for spaces; without one, those that are its words."""
    squeezed = text.replace(" ", "")
    found = frozenset(i for i, choice in enumerate(choices) if choice.replace(" ", "") == squeezed)
    if found or is_mathematical(text) or len(text) == 1:  # X is not x
        return found
    return frozenset(i for i, choice in enumerate(choices) if choice.lower() == text.lower())


def by_text(text: str, choices: Sequence[str], same: Same) -> frozenset[int]:
    """The options with this text: equal words, else the same number or form.

    Numbers are compared exactly: "1.25" must not fit an option "1.2" by rounding.
    """
    found = _verbatim(text, choices)
    if not found and not is_mathematical(text) and len(text) > 1:
        plain = words(text)
        found = frozenset(i for i, choice in enumerate(choices) if words(choice) == plain)
    if not found and (read_quantity(text) is not None or not _is_words(text)):
        found = frozenset(i for i, choice in enumerate(choices) if same(text, choice))
    return found


def _is_words(text: str) -> bool:
    return isinstance(read_element(text), Text)


def _index(match: re.Match[str]) -> int:
    text = match.re.groupindex.get("text")
    named = next(group for n, group in enumerate(match.groups(), 1) if group and n != text)
    return LETTERS.index(named.upper())
