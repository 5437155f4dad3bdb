"""The shape of a vision-language model: what its memory and its arithmetic follow from.

Read from a model folder's config and weights; for a folder that is not on this machine, from a
table of families by its name, taken from their published configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from pipeline.config.schema import VISION
from pipeline.errors import BadModel

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelShape:
    """A model's sizes.

    parameters: all of them; vision_parameters: those of the vision tower among them.
    hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary: of the language model.
    vision_hidden, vision_layers: of the vision tower. source: where this is from, in words.
    """

    name: str
    parameters: int
    vision_parameters: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    source: str = "the table of families"

    @property
    def kv_bytes(self) -> int:
        """Bytes of key-value cache of one token, at two bytes a number."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


FAMILIES = {
    shape.name: shape
    for shape in (
        ModelShape("Qwen2.5-VL-7B", 8_292_166_656, 676_550_144,
                   3584, 28, 28, 4, 128, 18944, 152064, 1280, 32),
        ModelShape("Qwen2.5-VL-3B", 3_754_622_976, 668_683_264,
                   2048, 36, 16, 2, 128, 11008, 151936, 1280, 32),
        ModelShape("InternVL3-8B", 7_944_373_760, 304_010_000,
                   3584, 28, 28, 4, 128, 18944, 151674, 1024, 24),
        ModelShape("InternVL3-2B", 2_088_957_440, 304_010_000,
                   1536, 28, 12, 2, 128, 8960, 151674, 1024, 24),
        ModelShape("SmolVLM2-2.2B", 2_246_784_880, 412_442_352,
                   2048, 24, 32, 32, 64, 8192, 49280, 1152, 27),
        ModelShape("SmolVLM2-500M", 507_482_304, 86_433_024,
                   960, 32, 15, 5, 64, 2560, 49280, 768, 12),
        ModelShape("SmolVLM2-256M", 256_484_928, 86_433_024,
                   576, 30, 9, 3, 64, 1536, 49280, 768, 12),
    )
}  # fmt: skip


def family_of(path: str) -> ModelShape | None:
    """The family that a folder's or a model's name says, such as /models/Qwen2.5-VL-7B-Instruct."""
    name = path.rstrip("/").rpartition("/")[2].lower()
    found = [shape for key, shape in FAMILIES.items() if name.startswith(key.lower())]
    return found[0] if found else None


def shape_of(
    name: str, config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]
) -> ModelShape:
    """The shape that a model folder has.

    config: its config.json. tensors: shapes of its stored tensors by name.

    Raises:
        BadModel: the config says no sizes, or there are no weights.
    """
    text = config.get("text_config") or config
    vision = config.get("vision_config") or {}
    if not tensors:
        raise BadModel(f"{name} holds no weights (*.safetensors), whose number is needed")
    try:
        heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
        shape = ModelShape(
            name=name,
            parameters=sum(map(prod, tensors.values())),
            vision_parameters=sum(prod(of) for key, of in tensors.items() if _is_vision(key)),
            hidden=hidden,
            layers=int(text["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or hidden // heads),
            intermediate=int(text["intermediate_size"]),
            vocabulary=int(text["vocab_size"]),
            vision_hidden=int(vision.get("hidden_size") or vision.get("embed_dim") or 0),
            vision_layers=int(vision.get("num_hidden_layers") or vision.get("depth") or 0),
        )
    except KeyError as error:
        raise BadModel(
            f"{name}/config.json: {error} is missing, which memory follows from"
        ) from error
    return replace(shape, source=f"the folder {name}")


def _is_vision(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in VISION)
