"""A process reward model on transformers, behind the same contract as the vLLM one.

For models that vLLM does not serve, and as the reference that it is compared with: every response
is computed whole, nothing is reused.

Axes: B rows of a batch, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from actors.model.collate import Collator, ImageSource
from actors.model.reading import load_model
from actors.model.value_head import add_head, read_head, read_likelihood
from pipeline.model_settings import published_settings
from pipeline.prm.step_scores import Excluded, ScoreRequest, Scores, feed, probability
from pipeline.training.rows import TrainRow

BATCH_ROWS = 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TransformersScorer:
    """One PRM at a time: a `pipeline.prm.step_scores.StepScorer`.

    images: bytes by content hash. device: where it computes. trusted: as `load_processor` takes it.
    beat: called after each batch.
    """

    def __init__(
        self,
        images: ImageSource,
        *,
        max_model_len: int,
        precision: str = "float32",
        tag_ids: Sequence[int] = (),
        device: str = "cpu",
        trusted: bool = False,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._images = images
        self._beat = beat
        self._most = max_model_len
        self._dtype = DTYPES[precision]
        self._tag_ids = tuple(tag_ids)
        self._device = device
        self._trusted = trusted

    def load_policy(self, folder: Path) -> None:
        """Serve the PRM in `folder`. Raises as `read_head`."""
        head, likelihood = read_head(folder), read_likelihood(folder)
        trust = published_settings(folder, self._trusted).trust_remote_code
        model = load_model(folder, self._dtype, trust)
        self._model = add_head(model, head, likelihood).to(self._device).eval()
        self._collator = Collator(folder, self._images, trusted=self._trusted)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores | Excluded]:
        """Step probabilities of each request, in order, or why there are none."""
        found: list[Scores | Excluded] = ["no_steps"] * len(requests)
        rows: dict[int, TrainRow] = {}
        for index, request in enumerate(requests):
            if not request.ends_S:
                continue
            row = self._row(request)
            prompt = self._collator.prompt(row)["input_ids"].shape[1]
            if prompt + row.step_ends_S[-1] > self._most:
                found[index] = "too_long"
            else:
                rows[index] = replace(row, prompt_tokens=prompt)
        # Rows of one kind and like length share a batch.
        order = sorted(rows, key=lambda i: (bool(rows[i].images), rows[i].length))
        for kind in (False, True):
            same = [i for i in order if bool(rows[i].images) == kind]
            for start in range(0, len(same), BATCH_ROWS):
                chosen = same[start : start + BATCH_ROWS]
                logits = self._batch([rows[i] for i in chosen])
                for index, logits_S in zip(chosen, logits, strict=True):
                    found[index] = probabilities(logits_S, requests[index])
        return found

    def _row(self, request: ScoreRequest) -> TrainRow:
        fed = feed(request, self._tag_ids)
        ends_S = tuple(place + 1 for place in fed.places_S)
        # A collated row's last token is not read: any that a response may hold will do.
        last = self._collator.processor.end_ids[0]
        ids = (*fed.token_ids_T, last)
        return TrainRow(request.prompt, request.images, 0, "", ids, ends_S, (0.0,) * len(ends_S))

    @torch.no_grad()
    def _batch(self, rows_B: Sequence[TrainRow]) -> list[list[float]]:
        """The logits of each row's steps."""
        micro = self._collator.collate(rows_B).to(self._device)
        assert micro.steps is not None
        logits = self._model(
            **micro.inputs,
            use_cache=False,
            **micro.steps.named(),
        ).tolist()
        self._beat()
        left = iter(logits)
        return [[next(left) for _ in row.step_ends_S] for row in rows_B]

    def close(self) -> None:
        """Free the model."""
        del self._model


def probabilities(logits_S: Sequence[float], request: ScoreRequest) -> Scores:
    """What a response's logits say. Raises as `probability`."""
    return tuple(
        probability(logit, f"step {step} of {request.name}")
        for step, logit in enumerate(logits_S, 1)
    )
