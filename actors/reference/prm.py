"""A process reward model on plain transformers: training and scoring in one process.

For studies, and as the reference that other scorers are compared with; a run of the loop trains on
DeepSpeed (`actors.training.trainer`) and scores with vLLM (`actors.scoring.scorer`).

Axes: B rows of a batch, S steps.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

import torch

from actors.model.value_head import add_head, step_loss
from actors.reference.policy import Pixels, PlainPolicy
from pipeline.training.settings import StepLoss

SCORE_ROWS = 256


@dataclass(frozen=True)
class StepExample:
    """A response as token ids, where its steps end in them, and what each is worth in [0, 1]."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    ends_S: tuple[int, ...]
    targets_S: tuple[float, ...]
    pixels: Pixels | None

    @property
    def length(self) -> int:
        """Tokens that are read: up to the last step's end."""
        return len(self.prompt_ids) + self.ends_S[-1]


class PlainPrm:
    """A copy of a policy with a head of zeros, to be trained.

    surprise: the head also sees how likely the model finds the response so far.
    """

    def __init__(
        self,
        policy: PlainPolicy,
        frozen: Sequence[str] = ("*vision*",),
        *,
        surprise: bool = False,
    ) -> None:
        model = copy.deepcopy(policy.model)
        hidden = model.config.get_text_config().hidden_size
        self.model = add_head(model, torch.zeros(1, hidden), torch.zeros(1) if surprise else None)
        self._policy = policy
        for name, parameter in self.model.named_parameters():
            if any(fnmatchcase(name, pattern) for pattern in frozen):
                parameter.requires_grad_(False)

    def logits(self, examples_B: Sequence[StepExample]) -> torch.Tensor:
        """Step logits of all rows, row after row."""
        width = max(example.length for example in examples_B)
        ids = torch.zeros(len(examples_B), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        spans: list[tuple[int, int, int]] = []
        for i, example in enumerate(examples_B):
            read = example.prompt_ids + example.token_ids[: example.ends_S[-1]]
            ids[i, : len(read)] = torch.tensor(read)
            mask[i, : len(read)] = 1
            prompt = len(example.prompt_ids)
            steps = pairwise((0, *example.ends_S))
            spans += [(i, prompt + start, prompt + end - 1) for start, end in steps]
        pixels = [e.pixels for e in examples_B if e.pixels is not None]
        if len(pixels) not in (0, len(examples_B)):
            raise ValueError("a batch holds responses with and without a picture")
        rows_S, starts_S, positions_S = torch.tensor(spans).unbind(1)
        logits: torch.Tensor = self.model(
            input_ids=ids, attention_mask=mask, use_cache=False,
            step_rows=rows_S, step_starts=starts_S, step_positions=positions_S,
            **({"pixel_values": self._policy.pixel_values(pixels)} if pixels else {}),
        )  # fmt: skip
        return logits

    @torch.no_grad()
    def scores(self, examples: Sequence[StepExample]) -> list[tuple[float, ...]]:
        """The probability of each step of each example."""
        self.model.eval()
        found: list[tuple[float, ...]] = [()] * len(examples)
        order = sorted(range(len(examples)), key=lambda i: examples[i].length)
        for start in range(0, len(order), SCORE_ROWS):
            chosen = order[start : start + SCORE_ROWS]
            sizes = [len(examples[i].ends_S) for i in chosen]
            made = self.logits([examples[i] for i in chosen]).sigmoid().split(sizes)
            for i, scores_S in zip(chosen, made, strict=True):
                found[i] = tuple(scores_S.tolist())
        return found


def train_prm(
    prm: PlainPrm,
    examples: Sequence[StepExample],
    *,
    lr: float,
    epochs: int,
    batch: int,
    seed: int,
    loss: StepLoss = "bce",
) -> list[float]:
    """AdamW over the examples; the mean loss per step of each epoch."""
    trained = [p for p in prm.model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    rng, history, done = random.Random(seed), [], 0
    total_steps = epochs * -(-len(examples) // batch)
    for _ in range(epochs):
        prm.model.train()
        order = list(examples)
        rng.shuffle(order)
        total, steps = 0.0, 0
        for start in range(0, len(order), batch):
            rows_B = order[start : start + batch]
            targets = torch.tensor([t for row in rows_B for t in row.targets_S])
            summed = step_loss(prm.logits(rows_B), targets, loss)
            for group in adam.param_groups:
                group["lr"] = lr * min(1.0, (done + 1) / 10) * (1 - done / total_steps)
            (summed / len(targets)).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            adam.step()
            adam.zero_grad(set_to_none=True)
            total, steps, done = total + summed.item(), steps + len(targets), done + 1
        history.append(total / steps)
    return history
