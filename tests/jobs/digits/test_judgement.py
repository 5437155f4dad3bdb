"""How the base of `digits` learns to judge: what is trained, and what stays as it was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.tasks.digits.judging import judge_picture
from pipeline.tasks.digits.scenes import draw_pixels, scans_by_split

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.slow


def test_a_new_layer_changes_nothing_and_a_step_of_training_lowers_the_loss(tmp_path: Path) -> None:
    import torch

    from jobs.digits import judgement
    from jobs.digits.in_memory import PolicyInMemory

    torch.manual_seed(0)
    policy, rng = PolicyInMemory.load(ROOT / "assets" / "digits-base"), random.Random(0)
    made = [judge_picture(scans_by_split(0)["base"], rng) for _ in range(8)]
    lessons = [(one, draw_pixels(one.scene, rng)) for one in made if one.scene is not None]
    before = judgement.read(policy, lessons, (2, 3))
    judgement.add_layers(policy, 1)
    after = judgement.read(policy, lessons, (2, 3))
    assert torch.allclose(before.odds_S, after.odds_S, atol=1e-5)
    assert before.true_S.tolist() == [int(step.true) for one in made for step in one.steps]

    adam = torch.optim.AdamW(policy.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = judgement.loss_of(judgement.read(policy, lessons, (2, 3)))
        losses.append(loss.item())
        loss.backward()
        adam.step()
        adam.zero_grad()
    assert losses[-1] < losses[0] / 2
    policy.save(tmp_path)
    again = PolicyInMemory.load(tmp_path)
    assert len(judgement.text_model(again).layers) == 5
