"""What every part works with: the device, its folder, its limits, its stopwatch."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


class CheckFailed(Exception):
    """A figure is not what it has to be; the message has both."""


@dataclass(frozen=True)
class Setting:
    """device: "cuda" or "cpu"; folder: a temporary one. toy: sizes for a try on a CPU, whose
    figures mean nothing."""

    device: str
    folder: Path
    toy: bool

    @property
    def on_gpu(self) -> bool:
        """Whether this is about a GPU."""
        return self.device == "cuda"

    def synchronize(self) -> None:
        """Wait for what the device has been given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def held_bytes(self) -> int:
        """Bytes of tensors that are alive: on a GPU its own count, else those Python can reach."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.synchronize()
            return torch.cuda.memory_allocated()
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in gc.get_objects()
            if type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_meta
        }
        return sum(storages.values())

    @contextmanager
    def peak(self, figures: dict[str, Any]) -> Iterator[None]:
        """Around a part: `peak_bytes` of the GPU's memory in `figures`, None on a CPU."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        yield
        figures["peak_bytes"] = torch.cuda.max_memory_allocated() if self.on_gpu else None


@contextmanager
def timed(figures: dict[str, Any], name: str, setting: Setting) -> Iterator[None]:
    """Around something that takes time: its seconds under a name in `figures`."""
    setting.synchronize()
    started = time.perf_counter()
    yield
    setting.synchronize()
    figures[name] = round(time.perf_counter() - started, 3)


def at_most(what: str, value: float, limit: float) -> None:
    """Fails where a figure is above its limit (or no number)."""
    if not value <= limit:
        raise CheckFailed(f"{what} is {value:.3g}, above {limit:g}")
