"""Pretraining: what the model is fed is what its processor makes, and it is repeatable."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from jobs.digits.in_memory import Example, PolicyInMemory
from jobs.digits.pretrain import STAGES, Pretrainer, fresh_policy
from pipeline.prompts import render_prompt
from pipeline.tasks.digits.scenes import GRID, draw_pixels, draw_scene, scans_by_split, to_png

TEXT = "What is the sum of the top left and bottom right digits?"


@pytest.fixture(scope="module")
def policy() -> PolicyInMemory:
    return fresh_policy(0)


def test_prompt_and_picture_are_what_the_processor_makes(policy: PolicyInMemory) -> None:
    rng = random.Random(0)
    pixels = draw_pixels(draw_scene(GRID, scans_by_split(0)["train"], rng), rng)
    image = Image.open(io.BytesIO(to_png(pixels))).convert("RGB")
    rendered = render_prompt(policy.processor, TEXT, 1)
    batch = policy.processor(text=[rendered], images=[[image]], return_tensors="pt")
    prompt = policy.prompt_ids(TEXT, True)
    assert prompt == tuple(batch["input_ids"][0].tolist())
    assert torch.allclose(policy.pixel_values([pixels]), batch["pixel_values"], atol=1e-6)
    response = policy.response_ids("3")
    assert response[-1] == policy.tokenizer.eos_token_id
    mixed = [Example(prompt, response, pixels), Example(prompt, response, None)]
    with pytest.raises(ValueError, match="with and without"):
        policy.nll(mixed)


def test_pretraining_is_repeatable_and_saves_a_complete_folder(tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        trainer = Pretrainer(fresh_policy(0), 0)
        trainer.sight(1, print)
        for stage_name, stage in STAGES.items():
            trainer.language(stage_name, replace(stage, steps=1), print)
        trainer.policy.save(tmp_path / name)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert PolicyInMemory.load(tmp_path / "a").prompt_ids(TEXT, True)
