"""The learner's checkpoint: float32 master weights and Adam moments, by parameter, in safetensors.

Always: a checkpoint is a tree of the store (`actors.training.checkpoint_tree`). Parameters are
whole, so any number of ranks can read what any other number wrote. Equal states give equal bytes.
There is no pickle.

    checkpoint.json                  step, cursor, files, what wrote it
    part-00000-of-00002.safetensors  master/<parameter>, exp_avg/<…>, exp_avg_sq/<…>
    part-00001-of-00002.safetensors
"""

from __future__ import annotations

import heapq
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.training.checkpoint_tree import FORMAT, MANIFEST
from actors.training.part_writer import PartWriter
from pipeline.errors import BadModel, CorruptObject
from pipeline.storage.trees import Beat, TreeFile, quiet

MOMENTS = ("exp_avg", "exp_avg_sq")


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


def _restore_tensor(engine: Any, parameter: Any, saved: Saved, name: str, key: str | None) -> None:
    """Read what this rank keeps of a saved master weight (or, with `key`, of a moment)."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    if engine.zero_optimization_stage() == 3:
        # The full form slices past the end of a parameter that does not divide by the ranks.
        numel, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()
        part = saved.flat(name, rank * numel, (rank + 1) * numel)
        part = torch.nn.functional.pad(part, (0, numel - part.numel())).to(parameter.device)
        if key is None:
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, key)
    elif getattr(parameter, "_hp_mapping", None) is not None:  # else none of it is kept here
        value = saved.tensor(name).to(parameter.device)
        if key is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, key)


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


def write_part(engine: Any, folder: Path, beat: Beat = quiet) -> TreeFile:
    """Write this rank's part into `folder`; its name, hash and size. All ranks must call.

    beat: called for every tensor.
    """
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    named = sorted(engine.module.named_parameters())
    sizes = [getattr(parameter, "ds_numel", parameter.numel()) for _, parameter in named]
    owned = dict(zip([name for name, _ in named], owners(sizes, world), strict=True))
    # What is frozen comes last: its precision is the module's, and of larger types first every
    # tensor lies aligned.
    named.sort(key=lambda item: (not item[1].requires_grad, item[0]))
    tensors = [
        (f"{key or 'master'}/{name}", parameter, key, owned[name] == rank)
        for name, parameter in named
        for key in ((None, *MOMENTS) if parameter.requires_grad else (None,))
    ]
    shapes = {
        name: (
            torch.float32 if parameter.requires_grad else parameter.dtype,
            tuple(getattr(parameter, "ds_shape", parameter.shape)),
        )
        for name, parameter, _, mine in tensors
        if mine
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{rank:05d}-of-{world:05d}.safetensors"
    with PartWriter(path, shapes) as writer:
        for name, parameter, key, mine in tensors:
            beat(f"writing a checkpoint: {name}")
            whole = full_tensor(engine, parameter, key)
            if mine:
                writer.add(name, whole)
        part = writer.close()
    sync(path)
    return part


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """A checkpoint on this node's disk, of which every byte was verified when it came there."""

    folder: Path
    manifest: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Saved:
        """Index a checkpoint's tensors.

        Raises:
            CorruptObject: naming the part that is missing or cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        manifest = read_manifest(folder)
        found: dict[str, Path] = {}
        for name in manifest["files"]:
            path = folder / name
            try:
                with safe_open(path, framework="pt") as part:
                    found.update(dict.fromkeys(part.keys(), path))
            except (OSError, SafetensorError) as error:
                raise CorruptObject(f"{path} cannot be read: {error}") from error
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
        with self._part(key) as part:
            return part.get_tensor(key)

    def flat(self, key: str, start: int, end: int) -> Tensor:
        """The elements `[start, end)` of a tensor in the order of memory, as far as it goes; only
        the rows that hold them are read."""
        with self._part(key) as part:
            held = part.get_slice(key)
            shape = held.get_shape()
            if not shape:
                return part.get_tensor(key).reshape(1)[start:end]
            if start >= math.prod(shape):
                return torch.empty(0)
            row = math.prod(shape[1:])
            first, last = min(start // row, shape[0]), min(-(-end // row), shape[0])
            rows: Tensor = held[first:last].reshape(-1)
            return rows[start - first * row : end - first * row]

    def _part(self, key: str) -> Any:
        from safetensors import safe_open

        if key not in self.files:
            raise BadModel(f"{self.folder} holds no {key}: it was made for another model")
        return safe_open(self.files[key], framework="pt")

    def copy_weights(self, model: Any, beat: Beat = quiet) -> None:
        """Put the saved weights into a model before DeepSpeed takes it over."""
        named = dict(model.named_parameters())
        known = {key.split("/", 1)[1] for key in self.files}
        if known != set(named):
            odd = sorted(known ^ set(named))[:3]
            raise BadModel(f"{self.folder} was made for another model: see {', '.join(odd)}")
        for name, parameter in named.items():
            beat(f"loading {name}")
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


def restore(engine: Any, saved: Saved, beat: Beat = quiet, *, moments: bool = True) -> None:
    """Put the saved master weights and, with `moments`, Adam's state into a fresh engine (weights
    copied before)."""
    for name, parameter in sorted(engine.module.named_parameters()):
        if not parameter.requires_grad:
            continue
        beat(f"restoring {name}")
        for key in (None, *MOMENTS) if moments else (None,):
            _restore_tensor(engine, parameter, saved, f"{key or 'master'}/{name}", key)
    if not moments:
        return
    state = _base_optimizer(engine).state
    for parameter in _flat_parameters(engine):
        state[parameter]["step"].fill_(float(saved.step))
