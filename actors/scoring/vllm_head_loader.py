"""Loads the `score.weight` of a process reward model into wherever a pooling vLLM has its head.

A PRM folder holds one head under one name, whatever its family. vLLM makes the head at the top of
the model (Idefics3, SmolVLM, Qwen3-VL) or, for a family whose language model it makes through its
own registry (Qwen2.5-VL, InternVL, LLaVA, GLM-4.1V, …), inside of that: the model itself is asked.

vLLM finds the loader by the name `FORMAT`, in whatever process runs the model, because
`LoadsValueHeads` is named as an extension of its workers and so this module is imported there.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from actors.model.value_head import HEAD
from pipeline.errors import BadModel

FORMAT = "value_head"


def head_parameter(model: nn.Module) -> tuple[str, Tensor]:
    """The head of a pooling model, and what it is called there.

    Raises:
        BadModel: vLLM made none, or several.
    """
    found = [
        (name, weight)
        for name, weight in model.named_parameters()
        if f".{name}".endswith(f".{HEAD}")
    ]
    if len(found) != 1:
        raise BadModel(
            f"vLLM made {len(found)} heads ({HEAD}) in {type(model).__name__}, and one is needed; "
            "prm.engine=transformers serves process reward models of every family"
        )
    return found[0]


def one_label(config: Any) -> Any:
    """A model's config with one label, also where only its language model's config is read."""
    config.num_labels = 1
    config.get_text_config().num_labels = 1
    return config


@register_model_loader(FORMAT)
class ValueHeadLoader(DefaultModelLoader):
    """vLLM's loader of safetensors, which calls the head what the model calls it."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(replace(load_config, load_format="safetensors"))

    def get_all_weights(
        self, model_config: ModelConfig, model: nn.Module
    ) -> Generator[tuple[str, Tensor], None, None]:
        place, _ = head_parameter(model)
        for name, weight in super().get_all_weights(model_config, model):
            yield place if name == HEAD else name, weight


class LoadsValueHeads:
    """A vLLM worker with this among its bases knows `FORMAT`."""
