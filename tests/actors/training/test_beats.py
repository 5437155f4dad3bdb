"""What takes long and moves is not hung: fetching, loading, storing, publishing, on a slow store.

Time is a number here, which the store moves on with every part that it reads or takes.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from actors.supervision.failures import Failure
from actors.training.checkpoint_tree import Checkpoint
from actors.training.hub import Hub
from actors.training.rank import Desk
from actors.training.source import Means, Source
from pipeline.storage.backend import Attempt, MemoryBackend
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store
from pipeline.training.settings import LearnSettings
from tests.support.learning import SETTINGS, group_of_one, image_bytes, tiny_policy

# Of four files four parts each are under way at a time, and none is progress before it is there.
PART_S, HANG_S = 100.0, 2000.0
SLOW: LearnSettings = SETTINGS.model_copy(update={"hang_s": HANG_S, "start_s": HANG_S})


class Watched:
    """A hub on a clock of its own, and the order that its one rank is at."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hub = Hub(SLOW, lambda: self.now)
        self.hub._fit = Future()  # a worker group that does not end
        self.number = 0

    def order(self, name: str) -> None:
        self.number = self.hub.command(name, {})

    def answer(self, value: Any = None) -> None:
        self.hub.answer(0, self.number, value)

    def passes(self) -> None:
        """Some time, after which nobody must think that the rank hangs."""
        self.now += PART_S
        assert self.hub.status(self.number, 0.0).failure is None

    # what a rank tells it

    def beat(self, doing: str) -> None:
        self.hub.beat(0, doing)

    def stored(self, path: str) -> None:
        self.hub.stored(0, path)

    def refuse(self, failure: Failure) -> None:
        raise AssertionError(failure)


class Throttled(MemoryBackend):
    """Every part takes `PART_S`."""

    def __init__(self, watched: Watched) -> None:
        super().__init__()
        self.watched = watched

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        self.watched.passes()
        return super().read(path, start, end)

    def upload(self, path: str, source: Path, attempt: Attempt) -> None:
        for _ in range(100):
            attempt(self.watched.passes)
        super().upload(path, source, attempt)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_slow_store_is_no_hang_and_a_rank_that_stopped_is(
    watched: Watched, tmp_path: Path
) -> None:
    store = Store(Throttled(watched))
    store.part_bytes = 16 << 10
    means = Means(store, image_bytes, str(tmp_path))
    with group_of_one(tmp_path):
        watched.order("ready")
        source = Source(publish_folder(store, tiny_policy(), watched.beat).path)
        took = [watched.now]
        desk = Desk(SLOW, source, means, watched)
        watched.answer()
        took.append(watched.now)
        watched.order("checkpoint")
        part, facts = desk.checkpoint({})
        made = Checkpoint.of([part], facts)
        desk.store_part(made.path)
        desk.settle()
        assert watched.hub.all_stored(made.path)
        made.complete(store)
        watched.answer()
        took.append(watched.now)
        watched.order("publish")
        desk.publish()
        watched.answer()
        took.append(watched.now)
        # As on a node that has none of it.
        shutil.rmtree(means.trees().folder / "checkpoints")
        watched.order("reset")
        desk.reset(SLOW, replace(source, checkpoint=made.path))
        watched.answer()
        took.append(watched.now)
        desk.close()
    assert not list((means.trees().folder / "new").iterdir())
    assert all(after - before > 3 * HANG_S for before, after in pairwise(took))
    watched.order("train")
    watched.beat("step 1 of 9")
    watched.now += HANG_S + 1
    failure = watched.hub.status(watched.number, 0.0).failure
    assert failure is not None
    assert "no progress for 2000 s: rank 0: step 1 of 9" in failure.reason
