"""Rows on their way to a model: what is fed, what is trained on, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from actors.model.collate import IGNORED, Collator, ahead
from pipeline.errors import BadData
from pipeline.training.rows import TrainRow
from tests.support.families.mllama import mllama
from tests.support.learning import IMAGES, image_bytes, make_rows, tiny_policy


@pytest.fixture(scope="module")
def policy() -> Path:
    return tiny_policy()


@pytest.fixture(scope="module")
def rows(policy: Path) -> list[TrainRow]:
    return make_rows(policy, 6)


def test_only_responses_are_trained_on_and_as_they_were_sampled(
    policy: Path, rows: list[TrainRow]
) -> None:
    micro = Collator(policy, image_bytes).collate(rows[:5], rows[5:6])
    ids, mask = micro.inputs["input_ids"], micro.inputs["attention_mask"]
    offset = ids.shape[1] - micro.keep
    for index, row in enumerate(rows[:6]):
        fed = ids[index][mask[index].bool()].tolist()
        assert len(fed) == row.prompt_tokens + len(row.token_ids_T) - 1
        assert tuple(fed[row.prompt_tokens :]) == row.token_ids_T[:-1]
        wanted = [(p, t) for p, t in enumerate(micro.targets_B_G[index].tolist()) if t != IGNORED]
        if index == 5:
            assert wanted == []
            continue
        assert tuple(token for _, token in wanted) == row.token_ids_T
        assert wanted[0][0] + offset == row.prompt_tokens - 1
    # Rows 0 and 1 have no image, 2 and 3 one, 4 and 5 two: padded to two, one row after another.
    assert micro.inputs["pixel_values"].shape[:2] == (4, 2)


def test_a_rank_whose_rows_have_run_out_runs_anchors_alone(
    policy: Path, rows: list[TrainRow]
) -> None:
    micro = Collator(policy, image_bytes).collate([], rows[2:4])
    assert (micro.targets_B_G == IGNORED).all()
    assert micro.steps is not None
    assert [len(part) for part in micro.steps.named().values()] == [0, 0, 0]


def test_prompts_are_processed_and_images_read_once(policy: Path, rows: list[TrainRow]) -> None:
    read: list[str] = []

    def source(sha: str) -> bytes:
        read.append(sha)
        return image_bytes(sha)

    collator = Collator(policy, source)
    collator.collate(rows[2:4])
    other = dataclasses.replace(rows[2], prompt=rows[2].prompt + " ", prompt_sha256="")
    collator.collate([other, rows[3]])
    assert read == list(rows[2].images)
    assert collator.prompts.made == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt_sha256": "0" * 64}, "another processor, chat template or image"),
        ({"images": tuple(sorted(IMAGES)[:2])}, "the processor refuses it"),
        ({"token_ids_T": ()}, "without tokens"),
        ({"token_ids_T": (300, 0, 301)}, "image placeholder or padding"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    policy: Path, rows: list[TrainRow], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadData, match=says):
        Collator(policy, image_bytes).collate([dataclasses.replace(rows[2], **changes)])


def test_ahead_keeps_order_and_passes_errors_on() -> None:
    def make(item: int) -> int:
        if item == 7:
            raise BadData("seven")
        return item * item

    assert list(ahead(make, range(5))) == [0, 1, 4, 9, 16]
    with pytest.raises(BadData, match="seven"):
        list(ahead(make, range(20)))


def test_images_that_cross_attention_reads_are_those_of_their_own_row(tmp_path: Path) -> None:
    """Mllama: rows of different lengths, together and alone. With as many images each, because its
    tokens before an image attend to everything that there is, also to what was filled up."""
    mllama(tmp_path / "mllama")
    collator = Collator(tmp_path / "mllama", image_bytes)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "mllama", dtype=torch.float32)
    # Gates are closed in a new model, and then no image moves anything.
    for name, gate in model.named_parameters():
        if name.endswith(("attn_gate", "mlp_gate")):
            torch.nn.init.ones_(gate)
    names = sorted(IMAGES)
    rows = [
        TrainRow(collator.processor.prompt(text, len(images)), images, 0, "", tuple(response))
        for text, images, response in (
            ("How many?", tuple(names[:2]), range(60, 70)),
            ("How many of these are red, and how many blue?", tuple(names[2:4]), range(70, 75)),
        )
    ]
    with torch.no_grad():
        together = collator.collate(rows)
        logits = model(**together.inputs).logits[:, -together.keep :]
        for row, of_row, targets in zip(rows, logits, together.targets_B_G, strict=True):
            alone = collator.collate([row])
            expected = model(**alone.inputs).logits[0, -alone.keep :]
            assert torch.allclose(of_row[targets != IGNORED], expected, atol=1e-5)
            inputs = {**alone.inputs, "pixel_values": alone.inputs["pixel_values"] * 0}
            assert not torch.allclose(model(**inputs).logits[0, -alone.keep :], expected, atol=1e-2)
