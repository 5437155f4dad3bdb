"""GPUs by name: memory, bandwidth, arithmetic and a price, from their makers' data sheets.

The price is an order of magnitude of what clouds ask for one GPU and hour on demand, to compare
plans with each other; give your own for a budget (`mstar-ray plan --usd-per-gpu-hour`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pipeline.errors import BadConfig

GIB = 1024**3


@dataclass(frozen=True)
class Gpu:
    """One GPU. memory_gib: what a process can use of it, GiB; bandwidth: bytes/s of its memory;
    flops: dense bfloat16 operations/s; usd_h: US dollars an hour."""

    name: str
    memory_gib: float
    bandwidth: float
    flops: float
    usd_h: float

    @property
    def memory(self) -> float:
        """Bytes."""
        return self.memory_gib * GIB


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H200-141GB", 139.0, 4.8e12, 989e12, 4.0),
        Gpu("H100-80GB", 79.0, 3.35e12, 989e12, 3.0),
        Gpu("A100-80GB", 79.0, 2.0e12, 312e12, 2.0),
        Gpu("A100-40GB", 39.0, 1.55e12, 312e12, 1.5),
        Gpu("L40S-48GB", 44.0, 0.86e12, 362e12, 1.2),
        Gpu("A10G-24GB", 22.0, 0.6e12, 70e12, 1.0),
        Gpu("L4-24GB", 22.0, 0.3e12, 121e12, 0.7),
        Gpu("RTX4090-24GB", 23.5, 1.0e12, 165e12, 0.5),
    )
}


def gpu_named(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        BadConfig: there is none of this name.
    """
    if name not in GPUS:
        near = difflib.get_close_matches(name, GPUS, n=1, cutoff=0.3)
        hint = f": did you mean {near[0]}?" if near else "."
        raise BadConfig(f"no GPU {name!r} is in the table{hint} It has {', '.join(GPUS)}")
    return GPUS[name]
