"""Which weights an engine holds: read back from its model after every load, before it takes work.

An engine may rename, fuse and split tensors, so they are known by their first values (in the
engine's precision), which fusing and splitting leave in front.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import BadModel

VALUES = 16
"""Values of a tensor that it is known by."""

_LOADERS = {"load_weights", "weight_loader", "default_weight_loader"}


class OtherWeights(RuntimeError):
    """The engine does not hold the weights that it was told to load."""


def check_held(
    llm: Any, folder: Path, precision: str, before: frozenset[bytes]
) -> frozenset[bytes]:
    """Compare what a running vLLM holds with the weights in `folder`.

    before: what this gave for the policy that was there until now.

    Returns:
        What the tensors in `folder` are known by.

    Raises:
        OtherWeights: it holds none of them, or one that only the policy before has.
        BadModel: what gives tokens their logits was not among them.
    """
    new = stored_values(folder, precision)
    held = frozenset[bytes]().union(*llm.apply_model(held_values))
    stale = held & (before - new)
    if stale or not held & new:
        had = f"{len(stale)} tensors of the policy before it" if stale else "no tensor of it"
        raise OtherWeights(f"the engine was told to load {folder} and holds {had}")
    heads = [found for found in llm.apply_model(held_heads) if found]
    # Of a head that is spread over ranks only the first rank's part begins as the stored one.
    if heads and not any(found <= new for found in heads):
        raise BadModel(
            f"{folder}: vLLM computes tokens' logits with weights that are not in it; where the "
            "input embedding is used for that, config.json must say tie_word_embeddings twice: of "
            "the whole model and in its text_config"
        )
    return new


def held_values(model: Any) -> set[bytes]:
    """What the parameters of a model are known by. Runs where the model runs."""
    tensors = (each.detach() for each in model.parameters())
    return {values for each in tensors if (values := _known_by(each)) is not None}


def held_heads(model: Any) -> set[bytes]:
    """What the heads that give tokens their logits are known by. Runs where the model runs."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    heads = (layer.weight for layer in model.modules() if isinstance(layer, ParallelLMHead))
    return {_known_by(weight.detach()) or b"" for weight in heads}


def stored_values(folder: Path, precision: str) -> frozenset[bytes]:
    """What the tensors of a model folder are known by, of which only the beginning is read."""
    import torch

    dtype = getattr(torch, precision)
    tensors = (tensor.to(dtype) for tensor in _beginnings(folder))
    return frozenset(values for each in tensors if (values := _known_by(each)) is not None)


def _beginnings(folder: Path) -> Iterator[Any]:
    """The first row of every tensor, or all of one that has no rows."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  it is no mapping
                stored = opened.get_slice(name)
                shape = stored.get_shape()
                if shape:
                    yield stored[: 1 if len(shape) > 1 else VALUES]


def _known_by(tensor: Any) -> bytes | None:
    """The first values; None where there are few, or all equal, as in a norm at its beginning."""
    if not tensor.is_floating_point():
        return None
    first = tensor[:1] if tensor.dim() > 1 else tensor
    values = first.flatten()[:VALUES].float().cpu()
    return values.numpy().tobytes() if len(values.unique()) > 1 else None


def unfit_weights(error: BaseException, folder: Path) -> BadModel | None:
    """The weights that an engine could not load, by tensor and file; None: it failed elsewhere."""
    from actors.model.weights_check import tensor_names

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    loading = [frame for frame in frames if frame.f_code.co_name in _LOADERS]
    if not loading:
        return None
    values = (value for frame in loading for value in frame.f_locals.values())
    words = {value for value in values if isinstance(value, str)}
    for file in sorted(folder.glob("*.safetensors")):
        for name in sorted(tensor_names(file)):
            if name in words or name in str(error):
                return BadModel(f"{file}: vLLM cannot load {name}: {_line(error)}{_renamed(name)}")
    files = ", ".join(str(file) for file in sorted(folder.glob("*.safetensors")))
    return BadModel(f"vLLM cannot load the weights in {files}: {_line(error)}")


def _renamed(name: str) -> str:
    """What to do about a name that transformers gave on saving and vLLM does not know."""
    if not name.removeprefix("model.").startswith("vision_tower."):
        return ""
    return (
        "; transformers' save_pretrained drops vision_model. from the names of CLIP and SigLIP "
        "towers, so take the weights' names of the published checkpoint (a policy trained from it "
        "keeps them)"
    )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
