"""Which parameters of a PRM stay: by default the vision tower, whatever its family calls it."""

from __future__ import annotations

import pytest

from pipeline.config.schema import VISION
from pipeline.training.freezing import frozen_problem, is_frozen

HEAD = "score.weight"
LANGUAGE = ("model.language_model.layers.0.mlp.up_proj.weight", "lm_head.weight", HEAD)
TOWERS = {
    "SmolVLM": "model.vision_model.encoder.layers.0.mlp.fc1.weight",
    "InternVL": "model.vision_tower.encoder.layer.0.attention.q_proj.weight",
    "Qwen-VL": "model.visual.blocks.0.attn.qkv.weight",
    "MiniCPM-V": "vpm.encoder.layers.0.mlp.fc1.weight",
    "Phi-3.5-vision": "model.vision_embed_tokens.img_processor.weight",
}


@pytest.mark.parametrize("family", TOWERS)
def test_the_default_freezes_the_tower_of_every_family_and_nothing_else(family: str) -> None:
    names = [TOWERS[family], *LANGUAGE]
    assert frozen_problem(names, VISION, HEAD) is None
    assert [name for name in names if is_frozen(name, VISION)] == [TOWERS[family]]


def test_a_model_without_any_such_tower_is_told() -> None:
    problem = frozen_problem(LANGUAGE, VISION, HEAD)
    assert problem is not None
    assert "'*vision*' names no parameter" in problem


def test_each_pattern_that_a_person_wrote_names_something() -> None:
    names = [TOWERS["Qwen-VL"], *LANGUAGE]
    assert frozen_problem(names, ("*visual*", "lm_head.*"), HEAD) is None
    assert frozen_problem(names, ("model.*",), HEAD) is None, "the head alone learns"
    assert frozen_problem(names, (), HEAD) is None
    problem = frozen_problem(names, ("*visual*", "*visaul.block*"), HEAD)
    assert problem is not None
    assert problem.startswith("'*visaul.block*' names no parameter")
    assert "*model.visual.blocks*" in problem


@pytest.mark.parametrize("pattern", ["*", "score.*", "*weight"])
def test_a_head_that_stays_cannot_learn(pattern: str) -> None:
    problem = frozen_problem([TOWERS["SmolVLM"], *LANGUAGE], ("*vision*", pattern), HEAD)
    assert problem is not None
    assert repr(pattern) in problem
    assert HEAD in problem
