"""Trees of a store on a node's own disk, by hash: each fetched and verified once, read by all.

    <folder>/policies/<sha256>            a tree, complete
    <folder>/policies/<sha256>.verified   its marker: size and times of each file once it was hashed
    <folder>/policies/<sha256>.lock       shared by who reads it; whoever has it alone may remove it

What always holds:

* a tree that is given has a marker, and its files are those that were hashed when the marker was
  written; a file that was changed since is hashed again, and a tree that differs is fetched anew;
* a tree is not removed while any process is given it; of the others, those used last stay;
* of processes that want one tree, one fetches it; what it had when it was killed is gone on from.

Processes and runs share a cache: what it holds is named by hash alone. Locks are the kernel's, so
a process that dies, however it does, holds nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DiskFull
from pipeline.storage.artifacts import hash_in
from pipeline.storage.disk import Free, free_bytes
from pipeline.storage.store import Store
from pipeline.storage.trees import Beat, TreeFile, fetch_tree, quiet

KEPT = {"policies": 4, "checkpoints": 2}
"""How many trees of each kind stay without being used: an engine may be about to read the last
policy, and a checkpoint is six times as large."""

POLL_S = 0.2
WEIGHTS = (".safetensors", ".bin")

Make = Callable[[Path], object]


class TreeCache:
    """The trees in one folder of a node's disk."""

    def __init__(
        self, folder: Path, keep: Mapping[str, int] = KEPT, free: Free = free_bytes
    ) -> None:
        self.folder = folder.absolute()
        self._keep = keep
        self._free = free

    @contextmanager
    def tree(
        self, store: Store, prefix: str, beat: Beat = quiet, *, weights: bool = True
    ) -> Iterator[Path]:
        """The tree stored under `prefix`, which ends in its hash; nobody removes or changes it
        before the context ends.

        beat: called while it is fetched, or another process is waited for that fetches it.
        weights: False leaves out the weights of a model: what is left tells tokens.

        Raises:
            StoreMissing: no complete tree is stored there.
            CorruptObject: a file of it is not what its manifest says; it is in quarantine.
            DiskFull: there is no room for it, also without the trees that nobody reads.
        """
        place = self._place(prefix)
        if not weights and not place.verified():
            place = self._place(prefix, "-light")

        def wanted(file: TreeFile) -> bool:
            return weights or not _is_weight(file)

        def fetch(folder: Path) -> None:
            try:
                fetch_tree(store, prefix, folder, beat, wanted, free=self._free)
            except DiskFull:
                self._remove_oldest(folder.parent, keep=0)
                fetch_tree(store, prefix, folder, beat, wanted, free=self._free)

        with self._given(place, fetch, beat) as folder:
            yield folder

    @contextmanager
    def derived(self, prefix: str, name: str, make: Make, beat: Beat = quiet) -> Iterator[Path]:
        """A folder that is made of the tree at `prefix` and of nothing else that `name` does not
        say. make: writes it, as a folder that is not there yet."""
        place = self._place(prefix, f"-{name}")

        def complete(folder: Path) -> None:
            part = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            make(part)
            part.rename(folder)

        with self._given(place, complete, beat) as folder:
            yield folder

    def adopt(self, prefix: str, folder: Path) -> None:
        """Take over a folder of this disk that holds the very tree that `prefix` names: it was
        hashed when it was stored. Where the tree is there already the folder is removed."""

        def move(target: Path) -> None:
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)

        with self._given(self._place(prefix), move, quiet):
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, prefix: str, file: Path) -> None:
        """Take over one file of a tree: who fetches the tree later finds and checks it."""
        place = self._place(prefix)
        with _locked(place.lock, fcntl.LOCK_SH, quiet), _locked(place.fetching, ALONE, quiet):
            place.part.mkdir(exist_ok=True)
            file.rename(place.part / file.name)
        self._remove_oldest(place.folder.parent)

    def held(self, prefix: str) -> Path | None:
        """Where a complete tree lies, if it does, for who can do without."""
        place = self._place(prefix)
        return place.folder if place.verified() else None

    def _place(self, prefix: str, suffix: str = "") -> _Place:
        kind, sha = prefix.split("/", 1)[0], hash_in(prefix)
        parent = self.folder / kind
        parent.mkdir(parents=True, exist_ok=True)
        return _Place(parent / f"{sha}{suffix}")

    @contextmanager
    def _given(self, place: _Place, make: Make, beat: Beat) -> Iterator[Path]:
        with _locked(place.lock, fcntl.LOCK_SH, beat):
            if not place.verified():
                with _locked(place.fetching, ALONE, beat):
                    if not place.verified():
                        make(place.folder)
                        place.mark()
                self._remove_oldest(place.folder.parent)
            place.marker.touch()
            yield place.folder

    def _remove_oldest(self, parent: Path, keep: int | None = None) -> None:
        """Remove what nobody reads but for the newest few."""
        names = {marker.stem for marker in parent.glob("*.verified")}
        names |= {part.stem[1:] for part in parent.glob(".*.part")}
        places = sorted((_Place(parent / name) for name in names), key=_Place.used, reverse=True)
        for place in places[self._keep[parent.name] if keep is None else keep :]:
            place.remove()


def _is_weight(file: TreeFile) -> bool:
    return file.path.endswith(WEIGHTS)


@dataclass(frozen=True)
class _Place:
    """A tree's folder and what lies beside it."""

    folder: Path

    def beside(self, suffix: str) -> Path:
        return self.folder.with_name(self.folder.name + suffix)

    @property
    def marker(self) -> Path:
        return self.beside(".verified")

    @property
    def lock(self) -> Path:
        return self.beside(".lock")

    @property
    def fetching(self) -> Path:
        return self.beside(".fetching")

    @property
    def part(self) -> Path:
        """What a fetch that is not over has."""
        return self.folder.with_name(f".{self.folder.name}.part")

    def verified(self) -> bool:
        """Whether every file is as it was when its bytes were hashed."""
        try:
            return bool(json.loads(self.marker.read_bytes()) == _looks(self.folder))
        except (OSError, ValueError):
            return False

    def mark(self) -> None:
        fresh = self.beside(f".verified.{os.getpid()}")
        fresh.write_text(json.dumps(_looks(self.folder), sort_keys=True))
        fresh.rename(self.marker)

    def used(self) -> float:
        """When it was last given, or its fetch last went on."""
        times = [each.stat().st_mtime for each in (self.marker, self.part) if each.exists()]
        return max(times, default=0.0)

    def remove(self) -> None:
        """Unless somebody reads it."""
        with _locked(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB, quiet) as alone:
            if not alone:
                return
            self.marker.unlink(missing_ok=True)  # first: what is removed in part is no tree
            for folder in (self.folder, self.part):
                shutil.rmtree(folder, ignore_errors=True)
            self.fetching.unlink(missing_ok=True)
            self.lock.unlink(missing_ok=True)


def _looks(folder: Path) -> dict[str, list[int]]:
    """Size, time of change and number of every file: what differs once a file was written to."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            status = (Path(parent) / name).stat()
            path = (Path(parent) / name).relative_to(folder).as_posix()
            found[path] = [status.st_size, status.st_mtime_ns, status.st_ino]
    if not found:
        raise FileNotFoundError(folder)
    return found


ALONE = fcntl.LOCK_EX


@contextmanager
def _locked(file: Path, how: int, beat: Beat) -> Iterator[bool]:
    """Hold a lock on the file of this name, which is made, and may be removed by who has it alone.
    Gives whether it is held: always, but for `LOCK_NB`."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            held = _wait(descriptor, how, beat, file)
            if held and not _is(descriptor, file):
                continue
            yield held
            return
        finally:
            os.close(descriptor)


def _wait(descriptor: int, how: int, beat: Beat, file: Path) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if how & fcntl.LOCK_NB:
                return False
            beat(f"waiting for another process of this node that fetches {file.stem[:16]}")
            time.sleep(POLL_S)
        else:
            return True


def _is(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.fstat(descriptor).st_ino == file.stat().st_ino
    except FileNotFoundError:
        return False
