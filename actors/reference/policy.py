"""A policy on plain transformers: sampling and training in one process, without engines.

For pretraining and for measuring the `digits` task, where a model of a million parameters changes
every few seconds; a run of the loop uses vLLM and DeepSpeed. Tokens are what the processor of the
model folder makes of a prompt, and what is trained on are the token ids given or sampled.

Axes: B rows of a batch, K samples of a prompt, T tokens of a response.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache

from pipeline.prompts import render_prompt

# A batch drops its ended rows when they are this share of it.
COMPACT_AT = 0.3

BATCH_ROWS = 384

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


class PlainPolicy:
    """A model and its processor in memory."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.tokenizer = processor.tokenizer
        self.end: int = self.tokenizer.eos_token_id
        self._pad: int = self.tokenizer.pad_token_id
        special = set(self.tokenizer.all_special_ids) - {self.end}
        self._forbidden = torch.tensor(sorted(special))
        self._prompts: dict[tuple[str, bool], tuple[int, ...]] = {}

    @classmethod
    def load(cls, folder: Path) -> PlainPolicy:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        return cls(model, AutoProcessor.from_pretrained(folder))

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
        return (*ids, self.end)

    def text(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def pixel_values(self, pixels_B: Sequence[Pixels]) -> torch.Tensor:
        """What the processor gives for grey pictures of the model's own size: (B, 1, 3, H, W)."""
        values = torch.from_numpy(np.stack(pixels_B)).float() / 255
        values = (values - 0.5) / 0.5
        return values[:, None, None].expand(-1, 1, 3, -1, -1)

    def nll(self, examples_B: Sequence[Example]) -> torch.Tensor:
        """Summed negative log-likelihood (nats) of the response tokens of a batch."""
        rows = [torch.tensor(e.prompt_ids + e.response_ids) for e in examples_B]
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad(rows, batch_first=True, padding_value=self._pad)
        mask = pad([torch.ones_like(row) for row in rows], batch_first=True)
        labels = torch.full_like(ids, -100)
        for i, example in enumerate(examples_B):
            labels[i, len(example.prompt_ids) : example.length] = torch.tensor(example.response_ids)
        extra = self._images([e.pixels for e in examples_B])
        out = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **extra)
        logits = out.logits[:, :-1].flatten(0, 1)
        return cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")

    def _images(self, pixels_B: Sequence[Pixels | None]) -> dict[str, torch.Tensor]:
        present = [pixels for pixels in pixels_B if pixels is not None]
        if len(present) not in (0, len(pixels_B)):
            raise ValueError("a batch holds examples with and without a picture")
        return {"pixel_values": self.pixel_values(present)} if present else {}

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        pixels: Sequence[Pixels | None],
        temperature: float,
        seed: int,
        *,
        max_new_tokens: int = 96,
    ) -> list[tuple[int, ...]]:
        """Sampled ids after each prompt, end token included unless cut; 0 is greedy.

        A prompt may end in sampled ids (a Monte-Carlo prefix); they are not returned.
        """
        self.model.eval()
        generator = torch.Generator().manual_seed(seed)
        sampled: list[tuple[int, ...]] = [()] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), BATCH_ROWS):
            chosen = order[start : start + BATCH_ROWS]
            rows = self._decode(
                [prompts[i] for i in chosen],
                self._images([pixels[i] for i in chosen]),
                lambda logits: _pick(logits, temperature, generator),
                max_new_tokens,
            )
            for i, row in zip(chosen, rows, strict=True):
                sampled[i] = tuple(row)
        return sampled

    def _decode(
        self,
        prompts_B: list[tuple[int, ...]],
        images: dict[str, torch.Tensor],
        pick: Callable[[torch.Tensor], torch.Tensor],
        max_new_tokens: int,
    ) -> list[list[int]]:
        width = max(len(prompt) for prompt in prompts_B)
        ids = torch.tensor([[self._pad] * (width - len(p)) + list(p) for p in prompts_B])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts_B])
        position = (mask.cumsum(1) - 1).clamp(min=0)
        cache, feed, rows = DynamicCache(), images, [[] for _ in prompts_B]  # type: ignore[var-annotated]
        alive, ended = list(range(len(prompts_B))), [False] * len(prompts_B)
        for _ in range(max_new_tokens):
            out = self.model(
                input_ids=ids, attention_mask=mask, position_ids=position,
                past_key_values=cache, use_cache=True, logits_to_keep=1, **feed,
            )  # fmt: skip
            logits = out.logits[:, -1].float()
            logits[:, self._forbidden] = -torch.inf
            next_ids = pick(logits)
            for row, token in zip(alive, next_ids.tolist(), strict=True):
                if not ended[row]:
                    rows[row].append(token)
                    ended[row] = token == self.end
            going = torch.tensor([i for i, row in enumerate(alive) if not ended[row]])
            if not len(going):
                break
            if len(going) <= (1 - COMPACT_AT) * len(alive):
                cache.batch_select_indices(going)
                alive = [alive[i] for i in going.tolist()]
                next_ids, mask, position = next_ids[going], mask[going], position[going]
            ids, feed = next_ids[:, None], {}
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            position = position[:, -1:] + 1
        return rows


def _pick(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]


class PlainTrainer:
    """AdamW on a `PlainPolicy`; moments and step count live as long as this object."""

    def __init__(self, policy: PlainPolicy, lr: float, warmup_steps: int = 20) -> None:
        self._policy, self._lr, self._warmup, self.steps = policy, lr, warmup_steps, 0
        self._share = 1.0
        parameters = policy.model.parameters()
        self._adam = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)

    def epoch(
        self, examples: Sequence[Example], batch: int, rng: random.Random, share: float = 1.0
    ) -> float:
        """One pass in batches of like length, at a share of the learning rate; mean loss in nats
        per response token."""
        self._share = share
        self._policy.model.train()
        total, tokens = 0.0, 0
        for rows_B in batches_of_like_length(examples, batch, rng):
            n_tokens = sum(len(row.response_ids) for row in rows_B)
            total += self.step([(rows_B, 1.0)]) * n_tokens
            tokens += n_tokens
        return total / tokens

    def step(self, parts: Sequence[tuple[Sequence[Example], float]]) -> float:
        """One optimizer step on the weighted sum of the parts' losses per token."""
        self.steps += 1
        for group in self._adam.param_groups:
            group["lr"] = self._lr * self._share * min(1.0, self.steps / self._warmup)
        total = 0.0
        for rows_B, weight in parts:
            n_tokens = sum(len(row.response_ids) for row in rows_B)
            loss = weight * self._policy.nll(rows_B) / n_tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self._policy.model.parameters(), 1.0)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return total


def batches_of_like_length(
    examples: Sequence[Example], batch: int, rng: random.Random
) -> list[list[Example]]:
    """Shuffled batches whose rows have similar lengths (sorted within windows of 8 batches)."""
    order = list(examples)
    rng.shuffle(order)
    window = 8 * batch
    ordered = [
        example
        for start in range(0, len(order), window)
        for example in sorted(order[start : start + window], key=lambda e: e.length)
    ]
    rows = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    rng.shuffle(rows)
    return rows
