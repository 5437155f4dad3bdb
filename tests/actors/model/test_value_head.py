"""The value head: folders, loading, losses, and what it sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from actors.model.collate import Collator
from actors.model.value_head import (
    HEAD,
    LIKELIHOOD_KEY,
    add_head,
    read_head,
    read_likelihood,
    step_loss,
    write_headed,
)
from pipeline.errors import BadModel
from pipeline.training.rows import TrainRow
from tests.support.learning import image_bytes, step_rows, tiny_policy
from tests.support.models import make_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "policy", 0)


def load(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def with_head(folder: Path, likelihood: float | None = None) -> Any:
    """The model with a head of zeros, which sees how likely the response is or does not."""
    seen = None if likelihood is None else torch.tensor([likelihood])
    return add_head(load(folder), torch.zeros(1, 128), seen)


def step_logits(model: Any, folder: Path, rows: list[TrainRow]) -> torch.Tensor:
    micro = Collator(folder, image_bytes).collate(rows)
    assert micro.steps is not None
    logits: torch.Tensor = model(**micro.inputs, use_cache=False, **micro.steps.named())
    return logits


def test_a_headed_folder_is_the_policy_and_one_more_tensor(folder: Path, tmp_path: Path) -> None:
    made = write_headed(folder, tmp_path / "prm")
    before, after = (load_file(path / "model.safetensors") for path in (folder, made))
    head = after.pop(HEAD)
    assert tuple(head.shape) == (1, 128)
    assert not head.any()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = json.loads((made / "config.json").read_text())
    assert config.pop("num_labels") == 1
    assert config == json.loads((folder / "config.json").read_text())
    assert not read_head(made).any()
    assert load(made).config.num_labels == 1


def test_a_head_that_sees_how_likely_tokens_are_says_so_in_the_config(
    folder: Path, tmp_path: Path
) -> None:
    made = write_headed(folder, tmp_path / "prm", likelihood=True)
    assert read_likelihood(write_headed(folder, tmp_path / "plain")) is None
    assert read_likelihood(made) == 0
    config = json.loads((made / "config.json").read_text())
    for bad in ([0.1, 0.2], "much", float("nan"), True):
        (made / "config.json").write_text(json.dumps(config | {LIKELIHOOD_KEY: bad}))
        with pytest.raises(BadModel, match="no finite number"):
            read_likelihood(made)


def test_no_gradient_flows_through_how_likely_the_model_finds_a_response() -> None:
    model = with_head(tiny_policy(), 0.5)
    step_logits(model, tiny_policy(), step_rows(4)).sum().backward()
    assert model.score.surprise.grad is not None
    rest = {n: p.grad for n, p in model.named_parameters() if not n.startswith("score.")}
    assert all(grad is None or not grad.any() for grad in rest.values())  # its head is still 0


def broken(made: Path, weight: torch.Tensor | None) -> Path:
    tensors = load_file(made / "model.safetensors")
    tensors.pop(HEAD)
    if weight is not None:
        tensors[HEAD] = weight
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    return made


def test_a_missing_or_unfit_head_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    made = write_headed(folder, tmp_path / "prm")
    tensors = load_file(made / "model.safetensors")
    save_file(tensors | {"score.bias": torch.zeros(1)}, made / "model.safetensors")
    with pytest.raises(BadModel, match="has a bias"):
        read_head(made)
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModel, match="scores with one number"):
        read_head(broken(made, torch.zeros(2, 128)))
    with pytest.raises(BadModel, match="not finite"):
        read_head(broken(made, torch.full((1, 128), torch.nan)))
    narrow = read_head(broken(made, torch.zeros(1, 64)))
    with pytest.raises(BadModel, match=r"\(1, 64\), and this model needs \(1, 128\)"):
        add_head(load(made), narrow)
    tensors = load_file(made / "model.safetensors")
    tensors.pop(HEAD)
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModel, match=r"no score\.weight.*prm\.kind"):
        read_head(made)


def test_the_head_leaves_the_model_its_names_and_gives_no_gradient_elsewhere() -> None:
    model, before = with_head(tiny_policy()), load(tiny_policy())
    names = dict(model.named_parameters())
    assert names.keys() == dict(before.named_parameters()).keys() | {HEAD}
    step_logits(model, tiny_policy(), step_rows(4)).sum().backward()
    assert names[HEAD].grad is not None
    rest = [p.grad for name, p in names.items() if name != HEAD]
    assert all(grad is None or not grad.any() for grad in rest)  # a head of zeros passes none on


def test_losses() -> None:
    logits, targets = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.25, 1.0, 0.0])
    p = logits.sigmoid()
    bce = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum()
    assert step_loss(logits, targets, "bce") == pytest.approx(float(bce), rel=1e-6)
    mse = ((p - targets) ** 2).sum()
    assert step_loss(logits, targets, "mse") == pytest.approx(float(mse), rel=1e-6)


def test_a_step_is_scored_by_what_stands_before_its_end_only() -> None:
    model = with_head(tiny_policy())
    torch.manual_seed(0)
    torch.nn.init.normal_(model.score.weight, std=0.1)
    rows = [row for row in step_rows(8) if len(row.step_ends_S) == 2]
    firsts = [
        replace(row, step_ends_S=row.step_ends_S[:1], targets_S=row.targets_S[:1]) for row in rows
    ]
    with torch.no_grad():
        whole = step_logits(model, tiny_policy(), rows)[::2]
        alone = step_logits(model, tiny_policy(), firsts)
    assert torch.allclose(whole, alone, atol=1e-5)
    assert len({round(float(logit), 4) for logit in whole}) == len(rows)
