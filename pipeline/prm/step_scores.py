"""What scores steps: the contract between the loop and a process reward model, and the memo.

One request is one response; what comes back is the probability of each of its steps, or the named
reason why it has none. What always holds: a score that is asked for comes back or an error is
raised; nothing is ever taken to be 0.

A step's score is a function of the image, the prompt and the tokens up to the step's end, so the
memo is keyed by exactly these (`step_key`). It is what lets an engine reuse the computation of a
shared prefix, of which it then returns no scores.

Axes: S steps of a response, T tokens.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pipeline.errors import BadModel
from pipeline.hashing import canonical_json

Excluded = Literal["no_steps", "too_long"]
Scores = tuple[float, ...]


@dataclass(frozen=True)
class ScoreRequest:
    """One response to score.

    prompt: chat-templated text, image placeholders not expanded; images: content hashes.
    token_ids_T: the sampled ids. ends_S: for each step the number of tokens up to its end.
    name: what an error calls it.
    """

    prompt: str
    images: tuple[str, ...]
    token_ids_T: tuple[int, ...]
    ends_S: tuple[int, ...]
    name: str = field(default="a response", compare=False)


class StepScorer(Protocol):
    """A process reward model, held by whatever engine."""

    def load_policy(self, folder: Path) -> None:
        """Serve the model in `folder` from now on; nothing of the old one is remembered."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores | Excluded]:
        """Step probabilities of each request, in order, or why there are none."""

    def close(self) -> None:
        """Free memory and processes."""


@dataclass(frozen=True)
class Fed:
    """A response as a model reads it: its ids, and the place in them of each step's score."""

    token_ids_T: tuple[int, ...]
    places_S: tuple[int, ...]


def feed(request: ScoreRequest, tag_ids: Sequence[int] = ()) -> Fed:
    """What is read of a response: nothing after the last step.

    A model that was trained with a tag after every step reads the tag there, and its score stands
    at the tag's last token; otherwise it stands at the step's own.
    """
    ids: list[int] = []
    places: list[int] = []
    start = 0
    for end in request.ends_S:
        ids += [*request.token_ids_T[start:end], *tag_ids]
        places.append(len(ids) - 1)
        start = end
    return Fed(tuple(ids), tuple(places))


def probability(logit: float, where: str) -> float:
    """The sigmoid of a step's logit, in double precision. where: which step it is of what.

    Raises:
        BadModel: the logit is no finite number.
    """
    if not math.isfinite(logit):
        raise BadModel(f"the process reward model gives {logit} for {where}: it cannot score")
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    grown = math.exp(logit)
    return grown / (1.0 + grown)


class StepKeys:
    """The keys of the steps of responses to one prompt: a running hash, each token hashed once."""

    def __init__(self, prompt: str, images: Sequence[str]) -> None:
        self._start = hashlib.sha256(canonical_json([prompt, list(images)]))

    def of(self, fed: Fed) -> list[bytes]:
        """One key for each step: the full prefix of tokens, the prompt and the images."""
        running, start, keys = self._start.copy(), 0, []
        for place in fed.places_S:
            running.update(array("q", fed.token_ids_T[start : place + 1]).tobytes())
            start = place + 1
            keys.append(running.digest())
        return keys


class Memo:
    """Step scores by key, the most recently used ones."""

    def __init__(self, most: int = 500_000) -> None:
        self._most = most
        self._held: OrderedDict[bytes, float] = OrderedDict()

    def get(self, key: bytes) -> float | None:
        """The score, or None when it is not (or no longer) known."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key]

    def put(self, key: bytes, score: float) -> None:
        """Remember a score; the least recently used one may go."""
        self._held[key] = score
        self._held.move_to_end(key)
        while len(self._held) > self._most:
            self._held.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)
