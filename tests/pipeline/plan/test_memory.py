"""GPU memory of the roles: by hand, and refused with the numbers where it does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.errors import BadConfig, BadModel
from pipeline.plan.gpus import GIB, gpu_named
from pipeline.plan.memory import check_memory, engine_need, learner_need, needs_of, states
from pipeline.plan.models import FAMILIES, family_of, shape_of

QWEN, SMOL = FAMILIES["Qwen2.5-VL-7B"], FAMILIES["SmolVLM2-500M"]
H100, L4 = gpu_named("H100-80GB"), gpu_named("L4-24GB")


def config_of(**learn: Any) -> Config:
    return config_from_dict(
        {
            "generate": {"max_new_tokens": 1024, "max_model_len": 4096},
            "learn": {"ranks": 8, "zero_stage": 3, "micro_batch": 4, **learn},
            "cluster": {"gpus_per_engine": 1, "gpus_per_rank": 1},
        }
    )


def test_states_of_eight_ranks_by_hand() -> None:
    """8.29 G parameters on 8 ranks: 2.1 + 4.15 + 8.3 + 8.3 GB, and 2 GB gathered."""
    found = states(config_of(), QWEN, 8)
    gigabytes = {name: round(size / 1e9, 2) for name, size in found.items()}
    assert gigabytes == {
        "weights": 2.07, "master weights": 4.15, "Adam's moments": 8.29, "gradients": 8.29,
        "gathered": 2.0,
    }  # fmt: skip


def test_states_by_zero_stage() -> None:
    """Of P parameters on 4 ranks, in bytes of P: what the stages divide."""
    count = SMOL.parameters
    for stage, of_p in ((1, 2 + 3 + 4 + 2 + 1), (2, 2 + 3 + 1 + 1), (3, 0.5 + 3 + 1 + 1 + 2)):
        config = config_of(zero_stage=stage)
        assert sum(states(config, SMOL, 4).values()) / count == pytest.approx(of_p)
    float32 = config_of(zero_stage=1, precision="float32")
    assert sum(states(float32, SMOL, 1).values()) / count == pytest.approx(4 + 12 + 4 + 4)


def test_a_rank_of_the_seven_billion_model_by_hand() -> None:
    need = learner_need(config_of(gradient_checkpointing=True), QWEN, H100, 800.0)
    # four rows of 1024 kept positions, 152,064 tokens, 16 bytes each
    assert need.parts["logits"] == 16 * 4 * 1024 * 152_064
    text = 4 * 1824 * 3584 * (2 * 28 + 34)
    vision = 4 * 4 * 800 * 1280 * (2 * 32 + 34)
    assert need.parts["activations"] == text + vision
    assert need.fits
    assert need.total / GIB == pytest.approx(38.9, abs=1.5)


def test_an_engine_by_hand() -> None:
    need = engine_need(config_of(), QWEN, H100)
    assert need.parts["weights"] == 2 * QWEN.parameters
    assert need.parts["one sequence's cache"] == 4096 * 2 * 28 * 4 * 128 * 2
    assert need.room == 0.9 * 79 * GIB
    room = need.room - sum(
        size for name, size in need.parts.items() if name != "one sequence's cache"
    )
    tokens = room / QWEN.kv_bytes
    assert f"holds {tokens:,.0f} tokens" in need.notes[0]
    config = config_of()
    spans = config.generate.model_copy(update={"tensor_parallel_size": 2})
    two = engine_need(config.model_copy(update={"generate": spans}), QWEN, H100)
    assert two.parts["weights"] == QWEN.parameters


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    config = config_of(ranks=1, zero_stage=1)
    needs = list(needs_of(config, QWEN, H100, 800.0))
    with pytest.raises(BadConfig) as refused:
        check_memory(needs, H100)
    message = str(refused.value)
    assert "a rank of the learner does not fit H100-80GB: it needs " in message
    assert " of 79.0 GiB (" in message
    assert "learn.zero_stage = 3 divides the weights too" in message
    assert "learn.gradient_checkpointing = true" in message
    assert "generation engine" not in message


def test_the_number_of_ranks_that_would_do_is_named_and_does() -> None:
    few = learner_need(config_of(ranks=2, gradient_checkpointing=True), QWEN, H100, 800.0)
    assert not few.fits
    least = int(few.advice.split()[1])
    assert learner_need(config_of(ranks=least, gradient_checkpointing=True), QWEN, H100, 800.0).fits
    assert not learner_need(
        config_of(ranks=least - 1, gradient_checkpointing=True), QWEN, H100, 800.0
    ).fits


def test_an_engine_too_large_for_its_gpu_is_refused() -> None:
    config = config_of()
    generate = config.generate.model_copy(update={"gpu_memory_utilization": 0.7})
    need = engine_need(config.model_copy(update={"generate": generate}), QWEN, L4)
    with pytest.raises(BadConfig, match=r"generation engine does not fit L4-24GB.*weights 15\.4"):
        check_memory([need], L4)


def test_roles_on_cpus_need_no_gpu() -> None:
    config = config_from_dict({"cluster": {"gpus_per_engine": 0, "gpus_per_rank": 0}})
    assert list(needs_of(config, QWEN, H100, 800.0)) == []


def test_families_by_the_name_of_a_folder() -> None:
    assert family_of("/models/Qwen2.5-VL-7B-Instruct/") == QWEN
    assert family_of("/models/InternVL3-2B-hf") == FAMILIES["InternVL3-2B"]
    assert family_of("my/model") is None


def test_the_shape_of_a_folder() -> None:
    text = {
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 16, "vocab_size": 10,
    }  # fmt: skip
    tensors = {"model.embed_tokens.weight": (10, 8), "model.vision_model.w": (3, 5)}
    shape = shape_of("here", {"text_config": text}, tensors)
    assert (shape.parameters, shape.vision_parameters) == (95, 15)
    assert (shape.kv_heads, shape.head_dim) == (4, 2)
    with pytest.raises(BadModel, match=r"here/config.json: 'hidden_size' is missing"):
        shape_of("here", {"text_config": {"num_attention_heads": 4}}, tensors)
    with pytest.raises(BadModel, match="no weights"):
        shape_of("here", {"text_config": text}, {})


def test_an_unknown_gpu_is_named() -> None:
    with pytest.raises(BadConfig, match="did you mean H100-80GB"):
        gpu_named("H100")
