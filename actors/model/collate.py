"""Rows to tensors, through the policy's own processor.

Always: the prompt's ids are those of the processor and hash to what the row says, or the row is
refused; the response's ids are those that were sampled, taken as they are; a response holds no
image placeholder. Loss sits on response tokens only: `targets` is IGNORED everywhere else.

What the processor makes of a prompt and its images is kept while there is room, because the samples
of a query share it; so are decoded images, which questions share.

Axes: B rows, L padded tokens, G positions that logits are computed for, T tokens of a response.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from actors.model.images import ImageCache
from actors.model.join_images import CROSS_ATTENTION, joined, lengthened
from actors.model.processor import load_processor
from actors.model.recent import Recent
from pipeline.errors import BadData
from pipeline.prompts import prompt_hash
from pipeline.training.rows import TrainRow

IGNORED = -100
ImageSource = Callable[[str], bytes]
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Steps:
    """The steps of all rows of a micro-batch: their row in it, where they start and end there
    (first and last token), and their targets."""

    rows_S: Tensor
    starts_S: Tensor
    positions_S: Tensor
    targets_S: Tensor

    def to(self, device: Any) -> Steps:
        """The same on a device."""
        parts = (self.rows_S, self.starts_S, self.positions_S, self.targets_S)
        return Steps(*(part.to(device) for part in parts))

    def named(self) -> dict[str, Tensor]:
        """As keyword arguments of a model with a step head."""
        return {
            "step_rows": self.rows_S,
            "step_starts": self.starts_S,
            "step_positions": self.positions_S,
        }

    @classmethod
    def of(cls, rows: Sequence[TrainRow], lengths_B: Sequence[int]) -> Steps | None:
        """Those of some rows after prompts of these lengths; None where rows have no steps."""
        if not all(row.step_ends_S for row in rows):
            return None
        for row in rows:
            if row.step_ends_S[-1] >= len(row.token_ids_T):
                raise BadData(f"{_name(row)}: its last step is not read, since nothing follows it")
        spans = [
            (i, lengths_B[i] + start, lengths_B[i] + end - 1)
            for i, row in enumerate(rows)
            for start, end in pairwise((0, *row.step_ends_S))
        ]
        # A rank whose rows have run out trains on none.
        rows_S, starts_S, positions_S = torch.tensor(spans, dtype=torch.long).view(-1, 3).unbind(1)
        return cls(
            rows_S,
            starts_S,
            positions_S,
            torch.tensor([t for row in rows for t in row.targets_S], dtype=torch.float32),
        )


@dataclass(frozen=True)
class Micro:
    """One micro-batch.

    inputs: keyword arguments of the model. keep: positions at the end that logits are needed for.
    targets_B_G: the token each of them predicts, IGNORED where there is no loss.
    steps: for a process reward model instead of these, where steps end and what they are worth.
    """

    inputs: dict[str, Tensor]
    targets_B_G: Tensor
    keep: int
    steps: Steps | None = None

    def to(self, device: Any) -> Micro:
        """The same on a device."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        steps = None if self.steps is None else self.steps.to(device)
        return Micro(inputs, self.targets_B_G.to(device), self.keep, steps)


@dataclass(frozen=True)
class Prompt:
    """What the processor makes of a prompt and its images, and the hash of its ids."""

    tensors: dict[str, Tensor]
    sha256: str

    def size(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Collator:
    """Turns rows into model inputs with the processor of one policy folder.

    kept_bytes: of processed prompts, and of decoded images. trusted: as `load_processor` takes it.
    """

    def __init__(
        self,
        folder: Path,
        images: ImageSource,
        *,
        kept_bytes: int = 256 << 20,
        trusted: bool = False,
    ) -> None:
        self.processor = load_processor(folder, trusted=trusted)
        tokenizer = self.processor.tokenizer
        pad = tokenizer.pad_token_id
        self._pad = tokenizer.eos_token_id if pad is None else pad
        self.pictures = ImageCache(images, budget=kept_bytes)
        self.prompts: Recent[Prompt] = Recent(kept_bytes, Prompt.size)

    def prompt(self, row: TrainRow) -> dict[str, Tensor]:
        """What the processor makes of a row's prompt and images.

        Raises:
            BadData: when its ids are not the ones the engine was fed.
        """
        kept = self.prompts.get((row.prompt, row.images), lambda: self._process(row))
        if row.prompt_sha256 not in ("", kept.sha256):
            raise BadData(
                f"{_name(row)}: the processor makes {kept.tensors['input_ids'].shape[1]} prompt "
                f"tokens with hash {kept.sha256[:16]}, the row was sampled after "
                f"{row.prompt_sha256[:16]}: another processor, chat template or image"
            )
        return kept.tensors

    def _process(self, row: TrainRow) -> Prompt:
        pictures = [self.pictures.get(sha) for sha in row.images]
        try:
            tensors = self.processor.inputs(row.prompt, pictures)
        except ValueError as error:
            raise BadData(f"{_name(row)}: the processor refuses it: {error}") from error
        return Prompt(tensors, prompt_hash(tensors["input_ids"][0].tolist()))

    def collate(self, rows: Sequence[TrainRow], anchors: Sequence[TrainRow] = ()) -> Micro:
        """One micro-batch; `anchors` run along without a loss."""
        rows_B = [*rows, *anchors]
        for row in rows_B:
            self._check_response(row)
        prompts_B = [self.prompt(row) for row in rows_B]
        lengths_B = [made["input_ids"].shape[1] for made in prompts_B]
        # The last token is only predicted, never read.
        pairs = zip(lengths_B, rows_B, strict=True)
        padded = max(length + len(row.token_ids_T) - 1 for length, row in pairs)
        keep = padded - (min(lengths_B) - 1)
        targets_B_G = torch.full((len(rows_B), keep), IGNORED, dtype=torch.long)
        for index, row in enumerate(rows):
            start = lengths_B[index] - 1 - (padded - keep)
            response = torch.tensor(row.token_ids_T, dtype=torch.long)
            targets_B_G[index, start : start + len(response)] = response
        inputs = _merged(prompts_B, lengths_B, rows_B, padded, self._pad)
        return Micro(inputs, targets_B_G, keep, Steps.of(rows, lengths_B))

    def _check_response(self, row: TrainRow) -> None:
        if not row.token_ids_T:
            raise BadData(f"{_name(row)}: a response without tokens")
        if self.processor.forbidden_in(row.token_ids_T):
            raise BadData(f"{_name(row)}: the response holds an image placeholder or padding")


def _name(row: TrainRow) -> str:
    images = f", images {', '.join(sha[:16] for sha in row.images)}" if row.images else ""
    return f"row with prompt {row.prompt[-200:]!r}{images}"


def _merged(
    prompts_B: Sequence[dict[str, Tensor]],
    lengths_B: Sequence[int],
    rows: Sequence[TrainRow],
    padded: int,
    pad: int,
) -> dict[str, Tensor]:
    shape = (len(rows), padded)
    inputs = {
        "input_ids": torch.full(shape, pad, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
    }
    images: dict[str, list[Tensor]] = {}
    for index, (made, length, row) in enumerate(zip(prompts_B, lengths_B, rows, strict=True)):
        for name, tensor in made.items():
            if tensor.shape == (1, length):
                # One entry for each token, such as its type: a response is text, type 0.
                whole = inputs.setdefault(name, torch.zeros(shape, dtype=tensor.dtype))
                whole[index, :length] = tensor[0]
            elif name == CROSS_ATTENTION:
                read = length + len(row.token_ids_T) - 1
                images.setdefault(name, []).append(lengthened(tensor, read, padded))
            else:
                images.setdefault(name, []).append(tensor)
        response = torch.tensor(row.token_ids_T[:-1], dtype=torch.long)
        inputs["input_ids"][index, length : length + len(response)] = response
        inputs["attention_mask"][index, : length + len(response)] = 1
    return inputs | joined(images)


def ahead(make: Callable[[Item], Made], items: Iterable[Item], depth: int = 2) -> Iterator[Made]:
    """`make` of each item, in order, computed by one other thread up to `depth` items ahead."""
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
