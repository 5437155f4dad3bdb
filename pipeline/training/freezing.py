"""Which parameters of a process reward model stay as they are: shell patterns of their names.

Families name their vision tower differently, so the default is a list of such names of which one
must be there; of patterns that a person wrote each must name something.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from pipeline.config.schema import VISION


def is_frozen(name: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter stays as it is."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def frozen_problem(names: Sequence[str], patterns: Sequence[str], head: str) -> str | None:
    """Why these patterns cannot be meant of a model with these parameters; None when they can.

    head: the name of the scalar head, without which nothing is left to learn.
    """
    unknown = [one for one in patterns if not any(fnmatchcase(name, one) for name in names)]
    if tuple(patterns) == VISION and len(unknown) < len(VISION):
        unknown = []
    if unknown:
        near = ", ".join(_nearest(unknown[0], names))
        return f"{unknown[0]!r} names no parameter of it; it has {near}"
    everything = [one for one in patterns if fnmatchcase(head, one)]
    if everything:
        return f"{everything[0]!r} freezes {head} too, and then nothing learns to score"
    return None


def _nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """The parts of a model (as patterns) whose names are most like a pattern's."""
    parts: dict[str, None] = {}
    for name in names:
        pieces = name.split(".")
        parts |= dict.fromkeys(".".join(pieces[:n]) for n in range(1, len(pieces)))
        parts |= dict.fromkeys(piece for piece in pieces if not piece.isdigit())
    bare = pattern.strip("*.")
    return [f"*{part}*" for part in difflib.get_close_matches(bare, parts, n=3, cutoff=0.0)]
