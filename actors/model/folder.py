"""A policy as an immutable, complete folder, made from the folder it was trained from.

Always: `from_pretrained` and `vllm serve` take the folder as it is. Weights keep the names and the
files they had in the base (transformers renames on loading; engines know the original names), and
everything else of the base folder (config, processor, tokenizer, chat template, generation config)
is copied byte for byte, except that the config names the precision the weights now have. The
folder appears whole or not at all, and an existing one is never written to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import BadModel

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def write_weights(model: Any, state: Mapping[str, Tensor], base: Path, fresh: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers.core_model_loading import revert_weight_conversion

    original = revert_weight_conversion(model, dict(state))
    layout = weight_files(base)
    missing = sorted(set(original) - set(layout) - tied_names(model, original))
    if missing:
        raise BadModel(f"{base} has no weight for {', '.join(missing[:3])}: not the base of this")
    for file in sorted(set(layout.values())):
        tensors: dict[str, Tensor] = {}
        with safe_open(base / file, framework="pt") as held:
            for name in sorted(name for name, where in layout.items() if where == file):
                # What the model does not know (an unused buffer) stays what it was.
                known = original.get(name)
                tensors[name] = (held.get_tensor(name) if known is None else known).contiguous()
        save_file(
            {name: t.clone() for name, t in tensors.items()},
            fresh / file,
            metadata={"format": "pt"},
        )
    if (base / INDEX).exists():
        _renew_index(base, fresh, layout)


def tied_names(model: Any, original: Mapping[str, Tensor]) -> set[str]:
    """Names under which a model lists a weight that it shares with another name."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {name for name in original if any(name.endswith(key) for key in tied)}


def weight_files(folder: Path) -> dict[str, str]:
    """Which file of a model folder holds each weight.

    Raises:
        BadModel: when there are no safetensors.
    """
    from safetensors import safe_open

    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if not files:
        raise BadModel(f"{folder} holds no *.safetensors file")
    layout: dict[str, str] = {}
    for file in files:
        with safe_open(folder / file, framework="pt") as held:
            layout.update(dict.fromkeys(held.keys(), file))
    return layout


def _renew_index(base: Path, fresh: Path, layout: Mapping[str, str]) -> None:
    index = json.loads((base / INDEX).read_text("utf-8"))
    index["weight_map"] = dict(sorted(layout.items()))
    size = sum((fresh / file).stat().st_size for file in set(layout.values()))
    index.setdefault("metadata", {})["total_size"] = size
    (fresh / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")


def name_precision(path: Path, dtype: torch.dtype, told: Mapping[str, Any]) -> None:
    """Make every `dtype` in a config name the precision of the weights, and have it say what is
    `told`; else leave it as it is."""
    config = json.loads(path.read_text("utf-8"))
    name = str(dtype).removeprefix("torch.")
    changed = bool(told)
    config |= told
    sections = [config]
    for section in sections:
        sections += [value for value in section.values() if isinstance(value, dict)]
        for key in ("dtype", "torch_dtype"):
            if isinstance(section.get(key), str) and section[key] != name:
                section[key], changed = name, True
    if changed:
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
