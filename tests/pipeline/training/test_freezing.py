"""Which parameters of a PRM stay: by default the vision tower, whatever its family calls it."""

from __future__ import annotations

import pytest

from pipeline.config.schema import CONNECTOR, VISION
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
CONNECTORS = {
    "SmolVLM": "model.connector.modality_projection.proj.weight",
    "InternVL": "model.multi_modal_projector.linear_1.weight",
    "Qwen-VL": "model.visual.merger.mlp.0.weight",
    "Qwen3-VL": "model.visual.deepstack_merger_list.0.linear_fc1.weight",
    "MiniCPM-V": "resampler.attn.in_proj_weight",
    "MiniCPM-V 4.6": "model.merger.mlp.0.linear_1.weight",
    "Phi-3.5-vision": "model.vision_embed_tokens.img_projection.0.weight",
}


@pytest.mark.parametrize("family", CONNECTORS)
def test_the_connector_has_a_word_of_its_own_in_every_family(family: str) -> None:
    connector, tower = CONNECTORS[family], TOWERS["SmolVLM"]
    names = [connector, tower, *LANGUAGE]
    assert [name for name in names if is_frozen(name, VISION)] == [tower]
    for frozen, meant in (((*VISION, CONNECTOR), {tower, connector}), ((CONNECTOR,), {connector})):
        assert {name for name in names if is_frozen(name, frozen)} == meant
        assert frozen_problem(names, frozen, HEAD) is None
    problem = frozen_problem([tower, *LANGUAGE], (*VISION, CONNECTOR), HEAD)
    assert problem is not None
    assert "'connector' names no parameter" in problem


def test_a_pattern_of_the_tower_that_a_person_wrote_means_what_it_says() -> None:
    assert is_frozen(CONNECTORS["Qwen-VL"], ("*visual*",))
    assert not is_frozen("model.vision_tower.vit_merger.linear_1.weight", (CONNECTOR,))


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
