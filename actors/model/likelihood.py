"""How likely a model finds what it reads: log-probabilities under its own token head.

A model finds a slip unlikely that it would hardly have written; where the last hidden state of a
step does not show it, this does. Taken as it is: no gradient flows through it.

Axes: B rows, S steps of all rows, L padded tokens, H hidden, T tokens of all steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from actors.model.folder import weight_files
from actors.model.processor import tensor_shapes
from pipeline.errors import BadModel

OWN, READ = "lm_head.weight", "embed_tokens.weight"
"""How the names of an output and of an input embedding end, whatever a family puts before."""

LOGITS_AT_ONCE = 2**25
"""Logits over the vocabulary that a scoring engine holds at once: 128 MiB in float32."""

RESPONSE_TOKENS = "response_tokens"
"""In the `extra_kwargs` of a pooling request: how many of its last tokens are asked about."""


@dataclass(frozen=True)
class TokenHead:
    """The tensor of a model folder, (V, H), that gives tokens their logits, and its file there.

    tied: it is the input embedding too.
    """

    name: str
    file: str
    tied: bool


def token_head(folder: Path, trust_remote_code: bool = False) -> TokenHead:
    """What gives tokens their logits in a model folder; reads no weight.

    A model without a tensor of its own for it uses its input embedding, if its config says so.

    Raises:
        BadModel: there is none, several could be it, or it has a bias, which no scorer here adds.
    """
    files = weight_files(folder)
    found = [name for name in files if f".{name}".endswith(f".{OWN}")]
    tied = not found and _ties(folder, trust_remote_code)
    if tied:
        found = [name for name in files if f".{name}".endswith(f".{READ}")]
    if not found:
        raise BadModel(
            f"{folder}: nothing in it gives tokens their logits: it has no {OWN}, and "
            + (f"no {READ} either" if tied else "its config does not tie it to the input embedding")
            + "; put the whole model there, or set tie_word_embeddings to true in its config.json "
            "if it is one that uses its input embedding"
        )
    if len(found) > 1:
        raise BadModel(
            f"{folder}: {', '.join(sorted(found))} could each give tokens their logits; leave the "
            "language model's alone in the folder"
        )
    name = found[0]
    if f"{name.removesuffix('weight')}bias" in files:
        raise BadModel(f"{folder}: {name} has a bias beside it, and no scorer here adds one")
    return TokenHead(name, files[name], tied)


def bytes_beside(folder: Path, precision: str, trust_remote_code: bool = False) -> int:
    """Bytes on each device that the log-likelihood of tokens takes besides the served model: a copy
    of its token head that is read again, and the logits that are held at once with what is computed
    of them. A head that is the input embedding too is counted: an engine may have divided it."""
    head = token_head(folder, trust_remote_code)
    rows, hidden = tensor_shapes(folder / head.file)[head.name]
    logits = 3 * LOGITS_AT_ONCE * torch.float32.itemsize
    return rows * hidden * int(getattr(torch, precision).itemsize) + logits


def _ties(folder: Path, trust_remote_code: bool) -> bool:
    """Whether a model of its family and config uses its input embedding for its output.

    Read by transformers, because a config leaves out what its family does anyway; families say it
    of the whole model or of its language model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
        both = (config, config.get_text_config())
    except (KeyError, OSError, ValueError) as error:
        raise BadModel(f"{folder}: its config.json cannot be used: {error}") from error
    return any(getattr(one, "tie_word_embeddings", False) for one in both)


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
