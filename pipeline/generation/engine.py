"""What generates: the contract between the loop and a generation engine.

One request is one sample with a seed of its own, so what comes back does not depend on which other
requests shared the batch. Engines return the token ids that were sampled, end token included;
text is never tokenised again (design: one source of tokens).

Axes: T tokens of a response, P tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class SampleRequest:
    """One sample to draw.

    `prompt` is chat-templated text whose image placeholders are not expanded. `images` are content
    hashes in prompt order. `prefix_token_ids` are sampled ids that the response starts with
    (Monte-Carlo completions, paper section 3); they are part of the response but not returned.
    `temperature` 0 is greedy decoding.
    """

    prompt: str
    images: tuple[str, ...]
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    prefix_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """What one request gave.

    `token_ids_T` are the sampled ids (after the prefix) and `logprobs_T` their log-probabilities in
    nats under the distribution they were drawn from. `prompt_token_ids_P` are the ids the engine
    fed the model, image placeholders expanded, prefix excluded.
    """

    token_ids_T: tuple[int, ...]
    logprobs_T: tuple[float, ...]
    text: str
    finish: Finish
    prompt_token_ids_P: tuple[int, ...]


class Engine(Protocol):
    """A generation engine holding one policy at a time."""

    def load_policy(self, folder: Path) -> None:
        """Serve the policy in `folder` from now on; every cache of the old one is dropped."""

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """One sample for each request, in the order of the requests."""

    def close(self) -> None:
        """Free the engine's memory and processes."""
