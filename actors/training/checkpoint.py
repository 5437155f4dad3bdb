"""The learner's checkpoint: float32 master weights and Adam moments, by parameter, in safetensors.

Always: a folder is a checkpoint when, and only when, `checkpoint.json` is in it, which names every
part with its sha256 and is written last. A part that does not match is refused by name and nothing
of it is used. Parameters are whole, so any number of ranks can read what any other number wrote.
Equal states give equal bytes. There is no pickle.

    checkpoint.json                  step, cursor, files, what wrote it
    part-00000-of-00002.safetensors  master/<parameter>, exp_avg/<…>, exp_avg_sq/<…>
    part-00001-of-00002.safetensors
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import BadModel, CorruptObject
from pipeline.hashing import canonical_json

FORMAT = 1
MANIFEST = "checkpoint.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make a file or folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- where DeepSpeed keeps things -----------------------------------------------------------------


def _base_optimizer(engine: Any) -> Any:
    """The torch optimizer inside DeepSpeed's."""
    return engine.optimizer.optimizer


def _flat_parameters(engine: Any) -> list[Tensor]:
    """The tensors that the torch optimizer steps on this rank."""
    if engine.zero_optimization_stage() == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    groups = _base_optimizer(engine).param_groups
    return [parameter for group in groups for parameter in group["params"]]


def starting_moments(engine: Any) -> None:
    """Adam's state before its first step, made now: torch makes it in that step, which is too late
    to read a checkpoint into it."""
    state = _base_optimizer(engine).state
    for parameter in _flat_parameters(engine):
        state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{key: torch.zeros_like(parameter.detach()) for key in MOMENTS},
        }
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def full_tensor(engine: Any, parameter: Any, key: str | None = None) -> Tensor:
    """A parameter's master weight, or with `key` one of its moments, whole. All ranks must call."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not parameter.requires_grad:
        with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            return parameter.detach().clone()
    if key is None:
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, key)


def _set_tensor(engine: Any, parameter: Any, value: Tensor, key: str | None = None) -> None:
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.to(parameter.device)
    if engine.zero_optimization_stage() == 3:
        # The full form slices past the end of a parameter that does not divide by the ranks.
        part = _partition(value, parameter.ds_tensor.numel(), torch.distributed.get_rank())
        if key is None:
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, key)
    elif key is None:
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, key)


def _partition(value: Tensor, numel: int, rank: int) -> Tensor:
    part = value.flatten()[rank * numel : (rank + 1) * numel]
    return torch.nn.functional.pad(part, (0, numel - part.numel()))


# --- writing --------------------------------------------------------------------------------------


def owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """Which rank writes each parameter, so that all write about equally much."""
    load = [(0, rank) for rank in range(ranks)]
    found = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        written, rank = heapq.heappop(load)
        found[index] = rank
        heapq.heappush(load, (written + sizes[index], rank))
    return found


def write_part(engine: Any, folder: Path) -> dict[str, str]:
    """Write this rank's part into `folder`; its file name and sha256. All ranks must call."""
    from safetensors.torch import save_file

    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    named = sorted(engine.module.named_parameters())
    sizes = [getattr(parameter, "ds_numel", parameter.numel()) for _, parameter in named]
    tensors: dict[str, Tensor] = {}
    for (name, parameter), owner in zip(named, owners(sizes, world), strict=True):
        for key in (None, *MOMENTS) if parameter.requires_grad else (None,):
            whole = full_tensor(engine, parameter, key)
            if owner == rank:
                tensors[f"{key or 'master'}/{name}"] = whole.cpu().clone().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{rank:05d}-of-{world:05d}.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    sync(path)
    return {"file": path.name, "sha256": sha256_of(path)}


def complete(
    folder: Path, parts: Sequence[Mapping[str, str]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `checkpoint.json` once every part has landed: from now on it is a checkpoint."""
    files = {part["file"]: part["sha256"] for part in parts}
    manifest = {"format": FORMAT, "files": files, **facts}
    fresh = folder / f".{MANIFEST}.new"
    fresh.write_bytes(canonical_json(manifest) + b"\n")
    sync(fresh)
    fresh.rename(folder / MANIFEST)
    sync(folder)
    return manifest


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk whose every part has been verified."""

    folder: Path
    manifest: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Saved:
        """Verify a checkpoint and index its tensors.

        Raises:
            CorruptObject: naming the part that is missing or does not match.
        """
        from safetensors import safe_open

        manifest = read_manifest(folder)
        found: dict[str, Path] = {}
        for name, sha in manifest["files"].items():
            path = folder / name
            if not path.is_file() or sha256_of(path) != sha:
                raise CorruptObject(f"{path} is missing or not what {MANIFEST} says it is")
            with safe_open(path, framework="pt") as part:
                found.update(dict.fromkeys(part.keys(), path))
        return cls(folder, manifest, found)

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.manifest["step"])

    @property
    def cursor(self) -> dict[str, Any]:
        """What the driver noted about where the run stood."""
        return dict(self.manifest["cursor"])

    def tensor(self, key: str) -> Tensor:
        """One tensor, read now."""
        from safetensors import safe_open

        if key not in self.files:
            raise BadModel(f"{self.folder} holds no {key}: it was made for another model")
        with safe_open(self.files[key], framework="pt") as part:
            return part.get_tensor(key)

    def copy_weights(self, model: Any) -> None:
        """Put the saved weights into a model before DeepSpeed takes it over."""
        named = dict(model.named_parameters())
        known = {key.split("/", 1)[1] for key in self.files}
        if known != set(named):
            odd = sorted(known ^ set(named))[:3]
            raise BadModel(f"{self.folder} was made for another model: see {', '.join(odd)}")
        for name, parameter in named.items():
            value = self.tensor(f"master/{name}")
            if value.shape != parameter.shape:
                raise BadModel(
                    f"{self.folder} was made for another model: {name} is {tuple(value.shape)} "
                    f"there and {tuple(parameter.shape)} here"
                )
            with torch.no_grad():
                parameter.copy_(value)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a checkpoint says about itself.

    Raises:
        CorruptObject: when there is none or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptObject(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorruptObject(f"{path} is no checkpoint of format {FORMAT}")
    return manifest


def restore(engine: Any, saved: Saved) -> None:
    """Put the saved master weights and moments into a fresh engine (weights copied before)."""
    for name, parameter in sorted(engine.module.named_parameters()):
        if not parameter.requires_grad:
            continue
        _set_tensor(engine, parameter, saved.tensor(f"master/{name}"))
        for key in MOMENTS:
            _set_tensor(engine, parameter, saved.tensor(f"{key}/{name}"), key)
    state = _base_optimizer(engine).state
    for parameter in _flat_parameters(engine):
        state[parameter]["step"].fill_(float(saved.step))
