"""What a person looks at, in the store as well: `runs/<run>/outputs/…` mirrors `<out>/<run>/`.

Summary, cards, curves and evaluations are small files that the driver writes on its own node. On a
cluster nobody reaches that node's disk, so they are copied into the run's store as the run goes on,
and at its end; `mstar-ray export outputs` brings them back. Nothing reads them to decide anything.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.run.events.evaluation import Evaluated
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import IterationClosed
from pipeline.run.events.training import JobDone
from pipeline.run.state import State
from pipeline.stages.workers import Watch
from pipeline.storage.store import Store

SHOWN = ("summary.json", "prm_card.json", "cards", "tensorboard", "evaluate")
"""What of `<out>/<run>/` is for people and small."""


def outputs_folder(run: str) -> str:
    """Where a run's outputs lie in its store."""
    return f"runs/{run}/outputs"


class StoredOutputs(Watch):
    """Copies what has changed in a run's folder into its store."""

    def __init__(self, folder: Path, store: Store, run: str) -> None:
        self._folder = folder
        self._store = store
        self._target = outputs_folder(run)
        self._copied: dict[Path, tuple[int, int]] = {}

    def event(self, event: Event, state: State) -> None:
        """Copy after what a person waits for."""
        if isinstance(event, IterationClosed | JobDone | Evaluated):
            self.copy()

    def copy(self) -> None:
        """Copy what is new or has changed since the last time.

        Raises:
            StoreError: the store gave up.
        """
        for file in self._files():
            status = file.stat()
            version = status.st_size, status.st_mtime_ns
            if self._copied.get(file) != version:
                name = file.relative_to(self._folder).as_posix()
                self._store.replace(f"{self._target}/{name}", file.read_bytes())
                self._copied[file] = version

    def _files(self) -> list[Path]:
        if Path(self._store.url).is_relative_to(self._folder):
            return []  # a store inside that very folder: who reaches one reaches the other
        shown = [self._folder / name for name in SHOWN]
        found = [file for one in shown for file in (one, *one.rglob("*")) if file.is_file()]
        return sorted(found)


def fetch_outputs(store: Store, run: str, folder: Path) -> list[Path]:
    """Write a run's outputs into a folder; the files."""
    target = outputs_folder(run)
    written = []
    for path in store.list(target):
        content = store.get(path)  # which takes no path that leads elsewhere
        file = folder / path.removeprefix(f"{target}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        written.append(file)
    return written
