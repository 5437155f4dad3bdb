"""Publishing a policy from sharded training state."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from actors.model.folder import name_precision, write_weights
from actors.training.checkpoint import full_tensor, sync
from pipeline.storage.trees import Beat, quiet


def whole_state(engine: Any, keep: bool, beat: Beat = quiet) -> dict[str, Tensor]:
    """The module's state by its own names, in the module's precision; empty unless `keep`.

    Master weights rounded to that precision are the weights the module computes with. All ranks
    must call, because parameters are gathered; only one needs to keep them.
    """
    named = sorted(engine.module.named_parameters())
    found: dict[int, Tensor] = {}
    for name, parameter in named:
        beat(f"publishing: {name}")
        whole = full_tensor(engine, parameter)
        if keep:
            found[id(parameter)] = whole.to(parameter.dtype).cpu().clone()
    if not keep:
        return {}
    aliases = dict(engine.module.named_parameters(remove_duplicate=False))
    state = {name: found[id(parameter)] for name, parameter in aliases.items()}
    others = {
        name: tensor.detach().cpu().clone()
        for name, tensor in engine.module.state_dict().items()
        if name not in aliases
    }
    return state | others


def publish(
    model: Any,
    state: Mapping[str, Tensor],
    base: Path,
    folder: Path,
    told: Mapping[str, Any] | None = None,
) -> None:
    """Write a policy folder with the weights in `state` (on one rank).

    told: what its config says otherwise than the base's.

    Raises:
        FileExistsError: policies are immutable.
        BadModel: when the base's weights cannot be told from the model's.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already, and a policy is never written twice")
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    if fresh.exists():
        shutil.rmtree(fresh)
    shutil.copytree(base, fresh, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", ".*"))
    name_precision(fresh / "config.json", model.dtype, told or {})
    write_weights(model, state, base, fresh)
    for path in sorted(fresh.rglob("*")):
        sync(path)
    sync(fresh)
    fresh.rename(folder)
    sync(folder.parent)
