"""Whether a policy's family can be trained and served, told by its folder before any engine starts.

Reads configs, headers of weight files and what the processor makes of white pictures; loads no
weights and no vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actors.model.join_images import joined
from actors.model.processor import Processor, tensor_shapes
from actors.model.reading import model_class
from pipeline.errors import BadModel

_SIZES = ((64, 64), (200, 120), (40, 130))
"""Width and height of pictures that no family makes equally large tensors of by chance."""


def check_family(processor: Processor, micro_batch: int) -> None:
    """Refuse a policy whose family cannot be trained, or whose weights vLLM cannot read.

    micro_batch: rows that a learner computes at once.

    Raises:
        BadModel: naming the folder, why, and what to do.
    """
    folder = processor.folder
    names = [name for file in folder.glob("*.safetensors") for name in tensor_shapes(file)]
    problems = [
        *_class_problem(processor),
        *_token_head_problem(processor.config, names),
        *_renamed_tower_problem(processor.config, names),
        *_size_problem(processor, micro_batch),
    ]
    if problems:
        raise BadModel("\n  ".join([f"{folder} cannot be trained here:", *problems]))


def _class_problem(processor: Processor) -> Iterator[str]:
    config = processor.config
    if model_class(config, processor.settings.trust_remote_code) is None:
        yield (
            f"transformers has no image-text-to-text model for {config.model_type} "
            f"({type(config).__name__}), and the learner trains no other kind; docs/families.md "
            "lists what is tested"
        )


def _token_head_problem(config: Any, names: list[str]) -> Iterator[str]:
    """transformers ties by the whole model's config alone, and would begin with a random head."""
    own = any(name.split(".")[-2:] == ["lm_head", "weight"] for name in names)
    read = any(name.split(".")[-2:] == ["embed_tokens", "weight"] for name in names)
    if read and not own and not getattr(config, "tie_word_embeddings", False):
        yield (
            "its weights hold no lm_head, and its config.json does not say of the whole model that "
            "the input embedding is used instead: set tie_word_embeddings to true, in text_config "
            "and outside of it"
        )


def _renamed_tower_problem(config: Any, names: list[str]) -> Iterator[str]:
    """transformers 5 saves towers of CLIP and SigLIP under names that vLLM does not know."""
    kind = getattr(getattr(config, "vision_config", None), "model_type", "")
    renamed = [
        name for name in names if name.removeprefix("model.").startswith("vision_tower.embeddings.")
    ]
    if kind in ("clip_vision_model", "siglip_vision_model") and renamed:
        yield (
            "its weights were renamed by transformers' save_pretrained, and vLLM does not know "
            f"{renamed[0]}: take the published checkpoint, whose names have vision_model. before "
            "that (policies trained from it keep them)"
        )


def _size_problem(processor: Processor, micro_batch: int) -> Iterator[str]:
    """Pictures of several sizes that cannot be in one micro-batch."""
    if micro_batch == 1:
        return
    from PIL import Image

    prompt = processor.prompt("?", 1)
    parts: dict[str, list[Any]] = {}
    for size in _SIZES:
        made = processor.inputs(prompt, [Image.new("RGB", size, "white")])
        length = made["input_ids"].shape[1]
        for name, tensor in made.items():
            if tensor.shape[:2] != (1, length):
                parts.setdefault(name, []).append(tensor)
    try:
        joined(parts)
    except BadModel as error:
        yield str(error)
