"""A response as the learner trains on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainRow:
    """One response to train on.

    prompt: chat-templated text, image placeholders not expanded (as in a SampleRequest).
    images: content hashes in prompt order.
    prompt_tokens: tokens of the expanded prompt, so that batches are planned without a processor;
        0 where nobody knows (batches are then balanced by responses alone).
    prompt_sha256: `prompt_hash` of the expanded prompt; the learner refuses a row whose own
        processor gives another one. "" for a prompt that nothing was sampled from (warm-up).
    token_ids_T: the ids that were sampled, end token included; never re-tokenised.
    step_ends_S, targets_S: for a process reward model, where steps end in `token_ids_T` (which then
        holds one token more than the last of them) and what each is worth in [0, 1].
    """

    prompt: str
    images: tuple[str, ...]
    prompt_tokens: int
    prompt_sha256: str
    token_ids_T: tuple[int, ...]
    step_ends_S: tuple[int, ...] = ()
    targets_S: tuple[float, ...] = ()

    @property
    def units(self) -> int:
        """What the loss is a mean over: response tokens, or steps where the row has them."""
        return len(self.step_ends_S) or len(self.token_ids_T)

    @property
    def length(self) -> int:
        """Tokens of prompt and response together."""
        return self.prompt_tokens + len(self.token_ids_T)
