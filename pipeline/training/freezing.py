"""Which parameters of a process reward model stay as they are: shell patterns of their names.

Families name their vision tower differently, so the default is a list of such names of which one
must be there; of patterns that a person wrote each must name something. The default means the tower
and nothing else in every family, also where the connector (what makes embeddings of the language
model from the tower's output) is a part of it by name; the word `connector` means that.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from pipeline.config.schema import CONNECTOR, VISION

_CONNECTORS = {
    "connector",  # Idefics3, SmolVLM
    "multi_modal_projector",  # LLaVA, InternVL, Mistral3, Gemma 3
    "mm_projector",
    "merger",  # Qwen-VL, GLM-V, MiniCPM-V 4.6
    "deepstack_merger_list",  # Qwen3-VL
    "resampler",  # MiniCPM-V
    "mlp1",  # InternVL with code of its own
    "img_projection",  # Phi-3.5-vision
}
"""Parts of a parameter's name that say that it is the connector's."""


def is_frozen(name: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter stays as it is."""
    if _of_connector(name) and CONNECTOR in patterns:
        return True
    tower = set(VISION) if set(VISION) <= set(patterns) else set[str]()
    meant = set(patterns) - tower if _of_connector(name) else patterns
    return any(fnmatchcase(name, pattern) for pattern in meant)


def _of_connector(name: str) -> bool:
    return not _CONNECTORS.isdisjoint(name.split("."))


def frozen_problem(names: Sequence[str], patterns: Sequence[str], head: str) -> str | None:
    """Why these patterns cannot be meant of a model with these parameters; None when they can.

    head: the name of the scalar head, without which nothing is left to learn.
    """
    unknown = [one for one in patterns if not any(is_frozen(name, (one,)) for name in names)]
    if set(VISION) <= set(patterns) and any(is_frozen(name, VISION) for name in names):
        unknown = [one for one in unknown if one not in VISION]
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
