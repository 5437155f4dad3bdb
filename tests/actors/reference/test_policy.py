"""The plain policy feeds the model what the processor would, and samples as it is asked to."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from actors.reference.policy import Example, PlainPolicy, PlainTrainer
from jobs.digits.base_model import build_base
from jobs.digits.pretrain import STAGES, Pretrainer, fresh_policy
from pipeline.prompts import render_prompt
from pipeline.tasks.digits.scenes import GRID, draw_pixels, draw_scene, scans_by_split, to_png

TEXT = "What is the sum of the top left and bottom right digits?"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PlainPolicy:
    folder = tmp_path_factory.mktemp("base")
    build_base(folder, 0)
    return PlainPolicy.load(folder)


def _pixels(seed: int) -> np.ndarray:
    rng = random.Random(seed)
    return draw_pixels(draw_scene(GRID, scans_by_split(0)["train"], rng), rng)


def test_prompt_and_picture_are_what_the_processor_makes(policy: PlainPolicy) -> None:
    pixels = _pixels(0)
    image = Image.open(io.BytesIO(to_png(pixels))).convert("RGB")
    rendered = render_prompt(policy.processor, TEXT, 1)
    batch = policy.processor(text=[rendered], images=[[image]], return_tensors="pt")
    assert policy.prompt_ids(TEXT, True) == tuple(batch["input_ids"][0].tolist())
    assert torch.allclose(policy.pixel_values([pixels]), batch["pixel_values"], atol=1e-6)


def test_a_batch_mixes_no_pictures_with_text_alone(policy: PlainPolicy) -> None:
    prompt = policy.prompt_ids(TEXT, True)
    with pytest.raises(ValueError, match="with and without"):
        policy.sample([prompt, prompt], [_pixels(0), None], 0.0, 0)


def test_what_is_sampled_does_not_depend_on_padding(policy: PlainPolicy) -> None:
    prompts = [policy.prompt_ids(text, True) for text in (TEXT, "Read it.", TEXT + " " + TEXT)]
    pixels = [_pixels(i) for i in range(3)]
    together = policy.sample(prompts, pixels, 0.0, 0, max_new_tokens=12)
    alone = [
        policy.sample([prompt], [picture], 0.0, 0, max_new_tokens=12)[0]
        for prompt, picture in zip(prompts, pixels, strict=True)
    ]
    assert together == alone


def test_placeholders_are_never_sampled_and_the_end_token_ends(policy: PlainPolicy) -> None:
    prompts = [policy.prompt_ids(TEXT, True)] * 64
    rows = policy.sample(prompts, [_pixels(0)] * 64, 3.0, 1, max_new_tokens=40)
    special = set(policy.tokenizer.all_special_ids) - {policy.end}
    assert not any(special & set(row) for row in rows)
    assert all(policy.end not in row[:-1] for row in rows)
    assert len(set(rows)) > 60


def test_training_fits_the_response_and_its_end(policy: PlainPolicy) -> None:
    response = policy.response_ids("top left is 3\n\n# Answer\n\n3")
    assert response[-1] == policy.end
    example = Example(policy.prompt_ids(TEXT, True), response, _pixels(0))
    trainer = PlainTrainer(policy, 3e-3, warmup_steps=1)
    for _ in range(40):
        trainer.step([([example] * 4, 1.0)])
    assert policy.sample([example.prompt_ids], [example.pixels], 0.0, 0) == [response]


def test_pretraining_is_repeatable_and_saves_a_whole_folder(tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        trainer = Pretrainer(fresh_policy(0), 0)
        trainer.sight(1, print)
        for stage_name, stage in STAGES.items():
            trainer.language(stage_name, replace(stage, steps=1), print)
        trainer.policy.save(tmp_path / name)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert PlainPolicy.load(tmp_path / "a").prompt_ids(TEXT, True)
