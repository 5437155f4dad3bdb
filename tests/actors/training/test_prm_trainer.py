"""The learner on step targets: DeepSpeed on one rank against plain transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.model.value_head import (
    HEAD,
    add_head,
    read_head,
    read_likelihood,
    step_loss,
    write_headed,
)
from actors.training.trainer import Trainer
from pipeline.errors import BadData, BadModel
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings
from tests.support.learning import group_of_one, image_bytes, make_rows, step_rows, tiny_policy

SETTINGS = LearnSettings(
    learning_rate=2e-3,
    batch_size=8,
    micro_batch=3,
    precision="float32",
    objective="steps",
    frozen=("*vision*",),
)


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with group_of_one(tmp_path_factory.mktemp("group")):
        yield


@pytest.fixture(scope="module", params=[False, True], ids=["hidden", "likelihood"])
def headed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("headed") / "prm"
    return write_headed(tiny_policy(), folder, likelihood=request.param)


def reference_loss(folder: Path, rows: list[TrainRow], kind: str) -> float:
    """Row by row, on plain transformers, from a fresh reading of the folder; how likely the model
    finds the tokens is taken from its own token logits."""
    from transformers import AutoModelForImageTextToText

    from actors.model.collate import Collator

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    add_head(model, read_head(folder))
    likelihood = read_likelihood(folder)
    collator = Collator(folder, image_bytes)
    total = 0.0
    for row in rows:
        made = dict(collator.prompt(row))
        prompt = made.pop("input_ids").shape[1]
        read = torch.tensor([row.token_ids_T[: row.step_ends_S[-1]]])
        ids = torch.cat([collator.prompt(row)["input_ids"], read], dim=1)
        made["attention_mask"] = torch.ones_like(ids)
        positions = torch.tensor([prompt + end - 1 for end in row.step_ends_S])
        with torch.no_grad():
            logits = model(
                input_ids=ids, step_rows=torch.zeros_like(positions), step_starts=positions,
                step_positions=positions, **made,
            )  # fmt: skip
            if likelihood is not None:
                before = tokens(input_ids=ids, **made).logits[0, prompt - 1 : -1].log_softmax(-1)
                so_far = before.gather(1, read.T)[:, 0].cumsum(0)
                logits += likelihood * so_far[torch.tensor(row.step_ends_S) - 1]
        total += float(step_loss(logits, torch.tensor(row.targets_S), kind))  # type: ignore[arg-type]
    return total / sum(len(row.step_ends_S) for row in rows)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_a_prm_is_trained_published_and_read_again(
    headed: Path, tmp_path: Path, zero_stage: int
) -> None:
    settings = SETTINGS.model_copy(update={"zero_stage": zero_stage})
    trainer, rows = Trainer(settings, headed, image_bytes), step_rows(24)
    losses = [sum(trainer.train(rows, seed).nll_S) for seed in range(3)]
    assert losses[-1] < 0.9 * losses[0]
    trainer.publish(tmp_path / "prm")
    trainer.close()
    before, after = (load_file(f / "model.safetensors") for f in (headed, tmp_path / "prm"))
    assert before.keys() == after.keys()
    assert read_head(tmp_path / "prm").abs().max() > 0
    weights = [read_likelihood(folder) for folder in (headed, tmp_path / "prm")]
    assert weights == [None, None] or (weights[0] == 0 and weights[1] != 0)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert HEAD in changed
    assert not any("vision" in name for name in changed)
    assert any("layers.3" in name for name in changed)
    again = Trainer(settings, tmp_path / "prm", image_bytes)
    expected = reference_loss(tmp_path / "prm", rows[:8], "bce")
    item_losses = [again.backward(i, m) for i, m in again.collated(again.passes(rows[:8]))]
    found = sum(item_losses) / sum(row.units for row in rows[:8])
    again.close()
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_rank_without_rows_adds_nothing(headed: Path) -> None:
    trainer, rows = Trainer(SETTINGS, headed, image_bytes), step_rows(6)
    alone = replace(next(iter(trainer.passes(rows))), rows=(), anchors=tuple(rows[2:4]))
    assert [trainer.backward(i, m) for i, m in trainer.collated([alone])] == [0.0]
    trainer.close()


def test_squared_error_is_the_other_loss(headed: Path) -> None:
    trainer = Trainer(SETTINGS.model_copy(update={"step_loss": "mse"}), headed, image_bytes)
    rows = step_rows(6)
    found = sum(trainer.backward(i, m) for i, m in trainer.collated(trainer.passes(rows)))
    trainer.close()
    units = sum(row.units for row in rows)
    assert found / units == pytest.approx(0.25)  # a head of zeros says 1/2, targets are 0 and 1
    assert reference_loss(headed, rows, "mse") == pytest.approx(0.25)


def test_rows_without_steps_and_models_without_a_head_are_refused(headed: Path) -> None:
    with pytest.raises(BadModel, match=r"no score\.weight"):
        Trainer(SETTINGS, tiny_policy(), image_bytes)
    trainer = Trainer(SETTINGS, headed, image_bytes)
    with pytest.raises(BadData, match="rows with steps"):
        trainer.train(make_rows(tiny_policy(), 3), 0)
    (row,) = step_rows(1)
    with pytest.raises(BadData, match="nothing follows it"):
        trainer.train([replace(row, token_ids_T=row.token_ids_T[: row.step_ends_S[-1]])], 0)
    trainer.close()
