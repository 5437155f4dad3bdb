"""The scalar head: folders, loading, losses, and training on plain transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.model.value_head import (
    HEAD,
    SURPRISE_KEY,
    add_head,
    read_head,
    read_surprise,
    step_loss,
    write_headed,
)
from actors.reference.policy import Example, PlainPolicy
from actors.reference.prm import PlainPrm, StepExample, train_prm
from pipeline.errors import BadModel
from tests.support.models import make_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy") / "policy", 0)


@pytest.fixture(scope="module")
def policy(folder: Path) -> PlainPolicy:
    return PlainPolicy.load(folder)


def make_examples(policy: PlainPolicy, count: int, seed: int = 0) -> list[StepExample]:
    """Steps that are worth 1 where they end in token 40, 0 where they end in 41."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        prompt = policy.prompt_ids(f"What is row {number % 5}?", True)
        ids: list[int] = []
        ends, targets = [], []
        for _ in range(int(rng.integers(1, 4))):
            good = bool(rng.integers(2))
            ids += [int(token) for token in rng.integers(50, 400, int(rng.integers(1, 6)))]
            ids.append(40 if good else 41)
            ends.append(len(ids))
            targets.append(float(good))
        pixels = rng.integers(0, 255, (32, 32)).astype(np.uint8)
        made.append(StepExample(prompt, (*ids, 7), tuple(ends), tuple(targets), pixels))
    return made


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
    assert PlainPolicy.load(made).model.config.num_labels == 1


def test_a_head_that_sees_how_likely_tokens_are_says_so_in_the_config(
    folder: Path, tmp_path: Path
) -> None:
    made = write_headed(folder, tmp_path / "prm", surprise=True)
    assert read_surprise(write_headed(folder, tmp_path / "plain")) is None
    assert read_surprise(made) == 0
    config = json.loads((made / "config.json").read_text())
    for bad in ([0.1, 0.2], "much", float("nan"), True):
        (made / "config.json").write_text(json.dumps(config | {SURPRISE_KEY: bad}))
        with pytest.raises(BadModel, match="no finite number"):
            read_surprise(made)


def test_what_the_model_finds_likely_is_its_own_log_probability(policy: PlainPolicy) -> None:
    prm, rows = PlainPrm(policy, surprise=True), make_examples(policy, 5)
    with torch.no_grad():
        prm.model.score.surprise.fill_(0.5)
        found = prm.logits(rows).split([len(row.ends_S) for row in rows])
    for row, logits_S in zip(rows, found, strict=True):
        assert row.pixels is not None
        for end, logit in zip(row.ends_S, logits_S.tolist(), strict=True):
            said = Example(row.prompt_ids, row.token_ids[:end], row.pixels)
            with torch.no_grad():
                assert logit == pytest.approx(-0.5 * float(policy.nll([said])), rel=1e-5)


def test_no_gradient_flows_through_what_the_model_finds_likely(policy: PlainPolicy) -> None:
    prm = PlainPrm(policy, surprise=True)
    prm.logits(make_examples(policy, 3)).sum().backward()
    assert prm.model.score.surprise.grad is not None
    rest = {n: p.grad for n, p in prm.model.named_parameters() if not n.startswith("score.")}
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
        add_head(PlainPolicy.load(made).model, narrow)
    tensors = load_file(made / "model.safetensors")
    tensors.pop(HEAD)
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModel, match=r"no score\.weight.*prm\.kind"):
        read_head(made)


def test_the_head_leaves_the_model_its_names_and_gives_no_gradient_elsewhere(
    policy: PlainPolicy,
) -> None:
    prm = PlainPrm(policy)
    names = dict(prm.model.named_parameters())
    assert names.keys() == dict(policy.model.named_parameters()).keys() | {HEAD}
    prm.logits(make_examples(policy, 3)).sum().backward()
    assert names[HEAD].grad is not None
    assert all(p.grad is None for name, p in names.items() if "vision" in name)
    assert policy.model.get_input_embeddings().weight.grad is None


def test_losses() -> None:
    logits, targets = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.25, 1.0, 0.0])
    p = logits.sigmoid()
    bce = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum()
    assert step_loss(logits, targets, "bce") == pytest.approx(float(bce), rel=1e-6)
    mse = ((p - targets) ** 2).sum()
    assert step_loss(logits, targets, "mse") == pytest.approx(float(mse), rel=1e-6)


def test_a_step_is_scored_by_what_stands_before_its_end_only(policy: PlainPolicy) -> None:
    prm = PlainPrm(policy)
    torch.manual_seed(0)
    torch.nn.init.normal_(prm.model.score.weight, std=0.1)
    rows = make_examples(policy, 8)
    whole = prm.scores(rows)
    firsts = [
        StepExample(row.prompt_ids, row.token_ids, row.ends_S[:1], row.targets_S[:1], row.pixels)
        for row in rows
    ]
    for first, scores_S in zip(prm.scores(firsts), whole, strict=True):
        assert first[0] == pytest.approx(scores_S[0], abs=1e-5)
    assert len({round(scores_S[0], 4) for scores_S in whole}) == 8


def test_training_finds_what_makes_a_step_right(policy: PlainPolicy) -> None:
    prm = PlainPrm(policy)
    rows = make_examples(policy, 64)
    history = train_prm(prm, rows, lr=3e-3, epochs=5, batch=16, seed=0)
    assert history[-1] < 0.5 * history[0]
    fresh = make_examples(policy, 32, seed=1)
    pairs = [
        (score, value)
        for scores_S, row in zip(prm.scores(fresh), fresh, strict=True)
        for score, value in zip(scores_S, row.targets_S, strict=True)
    ]
    hits = [(score > 0.5) == (value > 0.5) for score, value in pairs]
    assert np.mean(hits) > 0.9
