"""A pooling vLLM that tells, besides each token's logit, how likely the model finds the token.

vLLM drops a model's token head when it pools. It is read from the model's folder again, by every
worker, so nothing depends on how an engine spreads its own layers.

Axes: N tokens that were computed of a request (those after a prefix-cache hit), H hidden.
"""

from __future__ import annotations

from collections.abc import Set
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.pooler import PoolingParamsUpdate
from vllm.model_executor.layers.pooler.abstract import Pooler

from actors.publish import weight_files
from actors.surprise import token_head_name, token_logprobs
from pipeline.errors import BadModel

TASK = "token_classify"
TOKENS_AT_ONCE = 1024
"""Tokens whose logits over the vocabulary are held at once."""


class SurprisePooler(Pooler):
    """Adds a column to what another pooler gives: (N, 2), logit and log-probability of each token.

    The first token that was computed has none (NaN): what comes before it is not known here.
    """

    def __init__(self, inner: Pooler, head_V_H: Tensor) -> None:
        super().__init__()
        self._inner = inner
        self._head_V_H = head_V_H

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
            strict=True,
        )
        return [self._with_logprobs(*part) for part in parts]

    def _with_logprobs(self, logits: Tensor, hidden_N_H: Tensor, prompt_ids: Tensor) -> Tensor:
        head, count = self._head_V_H, len(hidden_N_H)
        # A placeholder's id may lie beyond the head's rows; nobody asks how likely it is.
        ids = prompt_ids[len(prompt_ids) - count :].clamp(max=len(head) - 1).to(logits.device)
        found = torch.full((count, 1), torch.nan, dtype=torch.float32, device=logits.device)
        for start in range(1, count, TOKENS_AT_ONCE):
            end = min(start + TOKENS_AT_ONCE, count)
            logits_T_V = hidden_N_H[start - 1 : end - 1].to(head.dtype) @ head.T
            found[start:end, 0] = token_logprobs(logits_T_V, ids[start:end])
        return torch.cat([logits.float(), found], dim=1)


def tell_surprise(llm: Any, folder: Path) -> None:
    """Make a pooling vLLM that serves `folder` give both columns."""
    llm.apply_model(partial(_wrap, folder=str(folder)))


def _wrap(model: Any, folder: str) -> None:
    from safetensors import safe_open

    files = weight_files(Path(folder))
    name = token_head_name(files)
    if name is None:
        raise BadModel(f"{folder}: no output embedding was found, so it finds no token likely")
    with safe_open(Path(folder) / files[name], framework="pt") as held:
        weight = held.get_tensor(name)
    like = next(model.score.parameters())
    poolers = model.pooler.poolers_by_task
    inner = poolers[TASK]
    inner = inner._inner if isinstance(inner, SurprisePooler) else inner
    poolers[TASK] = SurprisePooler(inner, weight.to(device=like.device, dtype=like.dtype))
