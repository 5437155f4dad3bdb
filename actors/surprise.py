"""How likely a model finds what it reads: log-probabilities under its own token head.

A model that reads a slip it would hardly have written is surprised; where the last hidden state of
a step does not show it, this does. Taken as it is: no gradient flows through it.

Axes: B rows, S steps of all rows, L padded tokens, H hidden, T tokens of all steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

# Under these names families keep the output embedding; without one it is tied to the input's.
_TOKEN_HEADS = ("lm_head.weight", "model.lm_head.weight", "language_model.lm_head.weight")


def token_head_name(tensors: Collection[str]) -> str | None:
    """Which of a model folder's tensors gives tokens their logits, (V, H); None when none does."""
    own = next((name for name in _TOKEN_HEADS if name in tensors), None)
    return own or next((name for name in tensors if name.endswith("embed_tokens.weight")), None)


@dataclass(frozen=True)
class StepSpans:
    """Where steps lie: row, first and last position. A row's steps are adjacent and in order."""

    rows_S: Tensor
    starts_S: Tensor
    ends_S: Tensor

    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """Step, row and position of each token of each step."""
        sizes_S = self.ends_S - self.starts_S + 1
        steps_T = torch.repeat_interleave(sizes_S)
        before_S = sizes_S.cumsum(0) - sizes_S
        inside_T = torch.arange(len(steps_T), device=steps_T.device) - before_S[steps_T]
        return steps_T, self.rows_S[steps_T], self.starts_S[steps_T] + inside_T


def token_logprobs(logits_T_V: Tensor, token_ids_T: Tensor) -> Tensor:
    """Log-probability, in nats and float32, of each token under the logits before it."""
    logits_T_V = logits_T_V.float()
    chosen_T = logits_T_V.gather(1, token_ids_T[:, None]).squeeze(1)
    return chosen_T - logits_T_V.logsumexp(-1)


@torch.no_grad()
def logprobs_so_far(
    hidden_B_L_H: Tensor,
    input_ids_B_L: Tensor,
    token_head: Callable[[Tensor], Tensor],
    spans: StepSpans,
) -> Tensor:
    """(S,), float32: log-probability, in nats, of a row's tokens up to each step's end.

    token_head: from hidden states (T, H) to logits (T, V); called once, whatever there is, because
    a head that is spread over ranks is gathered by calling it.
    """
    steps_T, rows_T, places_T = spans.tokens()
    logits_T_V = token_head(hidden_B_L_H[rows_T, places_T - 1])
    of_T = token_logprobs(logits_T_V, input_ids_B_L[rows_T, places_T])
    of_S = of_T.new_zeros(len(spans.rows_S)).index_add_(0, steps_T, of_T)
    # Row by row, so that what a row gets does not depend on the rows before it.
    same_S_S = spans.rows_S[:, None] == spans.rows_S
    return same_S_S.tril().to(of_S.dtype) @ of_S
