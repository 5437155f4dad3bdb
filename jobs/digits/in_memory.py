"""A policy in memory on transformers alone, as `jobs.digits.pretrain` trains it.

A model of a million parameters changes every few seconds there; a run uses vLLM and DeepSpeed.
Tokens are what the processor of the model folder makes of a prompt.

Axes: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, AutoProcessor

from actors.model.reading import processor_options
from pipeline.model_settings import ModelSettings
from pipeline.prompts import render_prompt

Pixels = np.ndarray
"""An 8-bit grey picture, (height, width)."""


@dataclass(frozen=True)
class Example:
    """A prompt and its response as token ids, and the picture, or None for text alone."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    pixels: Pixels | None

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


class PolicyInMemory:
    """A model and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.tokenizer = processor.tokenizer
        self._prompts: dict[tuple[str, bool], tuple[int, ...]] = {}

    @classmethod
    def load(cls, folder: Path) -> PolicyInMemory:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        options = {"local_files_only": True, **processor_options(ModelSettings())}
        return cls(model, AutoProcessor.from_pretrained(folder, trust_remote_code=False, **options))

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def prompt_ids(self, text: str, with_image: bool) -> tuple[int, ...]:
        """Token ids of a chat prompt, image placeholders expanded."""
        key = (text, with_image)
        if key not in self._prompts:
            rendered = render_prompt(self.processor, text, int(with_image))
            if with_image:
                blank = np.zeros((32, 32, 3), dtype=np.uint8)
                batch = self.processor(text=[rendered], images=[[blank]])
                self._prompts[key] = tuple(batch["input_ids"][0])
            else:
                ids = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
                self._prompts[key] = tuple(ids)
        return self._prompts[key]

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a written response, end token included."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*ids, self.tokenizer.eos_token_id)

    def pixel_values(self, pixels_B: Sequence[Pixels]) -> torch.Tensor:
        """What the processor gives for grey pictures of the model's own size: (B, 1, 3, H, W)."""
        values = torch.from_numpy(np.stack(pixels_B)).float() / 255
        values = (values - 0.5) / 0.5
        return values[:, None, None].expand(-1, 1, 3, -1, -1)

    def nll(self, examples_B: Sequence[Example]) -> torch.Tensor:
        """Summed negative log-likelihood (nats) of the response tokens of a batch."""
        rows = [torch.tensor(e.prompt_ids + e.response_ids) for e in examples_B]
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        mask = pad([torch.ones_like(row) for row in rows], batch_first=True)
        labels = torch.full_like(ids, -100)
        for i, example in enumerate(examples_B):
            labels[i, len(example.prompt_ids) : example.length] = torch.tensor(example.response_ids)
        shown = [example.pixels for example in examples_B if example.pixels is not None]
        if len(shown) not in (0, len(examples_B)):
            raise ValueError("a batch holds examples with and without a picture")
        images = {"pixel_values": self.pixel_values(shown)} if shown else {}
        out = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **images)
        logits = out.logits[:, :-1].flatten(0, 1)
        return cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
