"""Stores of runs that an earlier program (commit be77fe3) began and that were interrupted.

`scripted` and `scripted-prm` are over scripted workers, each with what an uninterrupted run of that
program gave (`whole.json`); `real` is over real engines and the smallest policy that they take.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from pipeline.storage.backend import Backend, MemoryBackend
from pipeline.storage.store import Store

FOLDER = Path(__file__).parents[1] / "pipeline" / "run" / "earlier"

RUNS = {"scripted": "scripted", "scripted-prm": "scripted", "real": "old"}
"""The name of the run in each."""


def unpacked(name: str) -> dict[str, bytes]:
    """The files of a fixture, by their path in it."""
    with tarfile.open(FOLDER / f"{name}.tar.xz") as tar:
        opened = {member.name: tar.extractfile(member) for member in tar}
        return {path: file.read() for path, file in opened.items() if file is not None}


def store_of(name: str, backend: Backend | None = None) -> Store:
    """The store of a fixture, in memory or over `backend`."""
    store = Store(backend or MemoryBackend(), say=lambda line: None)
    for path, data in unpacked(name).items():
        if path.startswith("store/"):
            store.replace(path.removeprefix("store/"), data)
    return store
