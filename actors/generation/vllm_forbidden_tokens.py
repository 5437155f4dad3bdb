"""The logits processor that keeps forbidden tokens out of every response.

vLLM loads it by name in whatever process runs the model. One write per step for the whole batch, no
state for a request, and exactly minus infinity, so that reported log-probabilities are those of the
masked distribution (`logit_bias` would be rebuilt whenever a request ends, and is only -100).
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor.interface import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor.interface import (
    LogitsProcessor as LogitsProcessorOfRunner2,
)


class ForbidTokens(LogitsProcessor, LogitsProcessorOfRunner2):
    """Both contracts at once: vLLM chooses between its two model runners by itself."""

    def __init__(self, vllm_config: Any, *_: Any) -> None:
        self._ids_on_host = torch.tensor(
            vllm_config.additional_config["forbidden_token_ids"], dtype=torch.long
        )
        self._ids = self._ids_on_host

    def apply(self, logits: torch.Tensor, *_: Any) -> torch.Tensor:
        if self._ids.device != logits.device:
            self._ids = self._ids_on_host.to(logits.device)
        return logits.index_fill_(1, self._ids, -torch.inf)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """No state depends on which requests are in the batch."""
