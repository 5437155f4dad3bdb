"""A pooling vLLM that tells, besides each token's logit, how likely the model finds the token.

vLLM drops a model's token head when it pools. Where that is the input embedding, which stays, it is
read there; otherwise it is read from the model's folder again, whole by every worker, so nothing
depends on how an engine spreads its own layers.

What it takes on the device: V x H numbers for a head that is read again, and while a batch is
pooled `LOGITS_AT_ONCE` logits, three times as large at most with what is computed of them.

Axes: N tokens that were computed of a request (those after a prefix-cache hit), H hidden,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.pooler import PoolingParamsUpdate
from vllm.model_executor.layers.pooler.abstract import Pooler

from actors.model.likelihood import (
    LOGITS_AT_ONCE,
    READ,
    RESPONSE_TOKENS,
    TokenHead,
    token_head,
    token_logprobs,
)
from actors.scoring.vllm_head_loader import head_parameter

TASK = "token_classify"


class LikelihoodPooler(Pooler):
    """Adds a column to what another pooler gives: (N, 2), logit and log-probability of each token.

    Tokens before a request's response have none (NaN), and neither has the first token that was
    computed: what comes before it is not known here. logits_at_once: logits over the vocabulary
    that are held at a time.
    """

    def __init__(
        self,
        inner: Pooler,
        head_V_H: Callable[[], Tensor],
        logits_at_once: int = LOGITS_AT_ONCE,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._head_V_H = head_V_H
        self._logits_at_once = logits_at_once

    def get_supported_tasks(self) -> Set[Any]:
        return self._inner.get_supported_tasks()

    def get_pooling_updates(self, task: Any) -> PoolingParamsUpdate:
        return self._inner.get_pooling_updates(task) | PoolingParamsUpdate(requires_token_ids=True)

    def forward(self, hidden_states: Tensor, pooling_metadata: Any) -> Any:
        logits = self._inner(hidden_states, pooling_metadata)
        counts = pooling_metadata.get_pooling_cursor().num_scheduled_tokens_cpu.tolist()
        parts = zip(
            logits,
            torch.split(hidden_states, counts),
            pooling_metadata.get_prompt_token_ids_cpu(),
            pooling_metadata.pooling_params,
            strict=True,
        )
        return [self._with_logprobs(*part) for part in parts]

    def _with_logprobs(
        self, logits: Tensor, hidden_N_H: Tensor, prompt_ids: Tensor, params: Any
    ) -> Tensor:
        head, count = self._head_V_H(), len(hidden_N_H)
        asked = (params.extra_kwargs or {}).get(RESPONSE_TOKENS, count)
        # A placeholder's id may lie beyond the head's rows; nobody asks how likely it is.
        ids = prompt_ids[len(prompt_ids) - count :].clamp(max=len(head) - 1).to(logits.device)
        found = torch.full((count, 1), torch.nan, dtype=torch.float32, device=logits.device)
        at_once = max(1, self._logits_at_once // len(head))
        for start in range(max(1, count - asked), count, at_once):
            end = min(start + at_once, count)
            logits_T_V = hidden_N_H[start - 1 : end - 1].to(head.dtype) @ head.T
            found[start:end, 0] = token_logprobs(logits_T_V, ids[start:end])
        return torch.cat([logits.float(), found], dim=1)


def serve_likelihood(llm: Any, folder: Path, trust_remote_code: bool = False) -> None:
    """Make a pooling vLLM that serves `folder` give both columns.

    trust_remote_code: whether code that lies in the folder is run.

    Raises:
        BadModel: as `token_head`.
    """
    llm.apply_model(partial(_wrap, folder=str(folder), trust_remote_code=trust_remote_code))


def _wrap(model: Any, folder: str, trust_remote_code: bool) -> None:
    poolers = model.pooler.poolers_by_task
    inner = poolers[TASK]
    inner = inner._inner if isinstance(inner, LikelihoodPooler) else inner
    _, like = head_parameter(model)
    poolers[TASK] = LikelihoodPooler(inner, _head(model, Path(folder), like, trust_remote_code))


def _head(
    model: nn.Module, folder: Path, like: Tensor, trust_remote_code: bool = False
) -> Callable[[], Tensor]:
    """The token head (V, H), on the device and in the precision of `like`."""
    from safetensors import safe_open

    told = token_head(folder, trust_remote_code)
    with safe_open(folder / told.file, framework="pt") as held:
        rows, hidden = held.get_slice(told.name).get_shape()
        embedding = _embedding(model, told, rows, hidden, like)
        if embedding is not None:
            # Looked up whenever it is used: an engine may put new weights elsewhere.
            return lambda: embedding.weight[:rows]
        weight = held.get_tensor(told.name).to(device=like.device, dtype=like.dtype)
    return lambda: weight


def _embedding(
    model: nn.Module, told: TokenHead, rows: int, hidden: int, like: Tensor
) -> Any | None:
    """The engine's own input embedding, where it is the token head, whole and as it was saved."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    found = [
        layer
        for name, layer in model.named_modules()
        if name.endswith(READ.removesuffix(".weight"))
        and isinstance(layer, VocabParallelEmbedding)
        and layer.tp_size == 1
        and layer.org_vocab_size == rows
        and layer.embedding_dim == hidden
        and layer.weight.dtype == like.dtype
    ]
    return found[0] if told.tied and len(found) == 1 else None
