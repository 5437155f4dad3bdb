"""What one process of the learner's worker group runs: a `Trainer` that takes orders from the hub.

Always: a rank waits for orders outside any collective; every order is answered once or the process
ends with the error; a failure that has a meaning is told to the hub before that, because exceptions
lose their type on the way through Ray Train.
"""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from actors.supervision.failures import Failure, classify
from actors.supervision.node_cache import hold, let_go, sweep, take_code_folder
from actors.supervision.store_access import reach_store
from actors.training.source import Means, Source, checkpoint_folder, policy_folder
from pipeline.storage.disk import writing_to
from pipeline.storage.models import publish_folder
from pipeline.storage.trees import TreeFile, put_tree_file
from pipeline.training.metrics import RankReport
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings, Span

# No settings: how long one call waits at the hub before it asks again, and how often work is told.
POLL_S = 20.0
BEAT_S = 1.0
# The thread that computes needs the interpreter between operations, briefly; the one that collates
# would keep it for 5 ms at a time, and hold the first one up that long.
SWITCH_S = 5e-5
# Set before anything reads it.
ENVIRONMENT = {
    # Nothing is compiled here; without this DeepSpeed's import of Muon loads torch's compiler.
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Deterministic matrix products on GPUs need it.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def run_rank(config: dict[str, Any]) -> None:
    """Ray Train's training function. config: hub, settings, source, means."""
    import ray
    from ray import train

    hub, rank = config["hub"], train.get_context().get_world_rank()
    place = (ray.get_runtime_context().get_node_id(), os.getpid())
    ray.get(hub.beat.remote(rank, "starting", place))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    take_code_folder(config["means"].cache, config["settings"].trust_remote_code)
    sys.setswitchinterval(SWITCH_S)
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        _serve(hub, rank, config)
    except Exception as error:
        failure = classify(error)
        if failure is not None:
            ray.get(hub.refuse.remote(rank, failure))
        raise


def _serve(hub: Any, rank: int, config: dict[str, Any]) -> None:
    import ray

    line = Line(hub, rank)
    reach_store(config["means"].store, f"rank {rank}")
    desk = Desk(config["settings"], config["source"], config["means"], line)
    done = 0
    while True:
        order = ray.get(hub.next.remote(rank, done, POLL_S))
        if order is None:
            continue
        done, name, options = order
        if name == "leave":
            desk.close()
            ray.get(hub.answer.remote(rank, done, None))
            return
        ray.get(hub.answer.remote(rank, done, getattr(desk, name)(**options)))


class Line:
    """What a rank tells the hub besides its answers."""

    def __init__(self, hub: Any, rank: int) -> None:
        self._hub, self._rank, self._next = hub, rank, 0.0

    def beat(self, doing: str) -> None:
        """What it is doing; told at most once a second."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + BEAT_S
            self._hub.beat.remote(self._rank, doing)

    def stored(self, path: str) -> None:
        """Its part of a checkpoint is in the store."""
        self._hub.stored.remote(self._rank, path)

    def refuse(self, failure: Failure) -> None:
        """It cannot go on."""
        self._hub.refuse.remote(self._rank, failure)


class LineLike(Protocol):
    """What is used of a `Line`."""

    def beat(self, doing: str) -> None: ...
    def stored(self, path: str) -> None: ...
    def refuse(self, failure: Failure) -> None: ...


class Desk:
    """The orders a rank understands, one method each.

    A part of a checkpoint is written to this node's disk in the foreground, and brought to the
    store by a thread while training goes on.
    """

    def __init__(
        self, settings: LearnSettings, source: Source, means: Means, line: LineLike
    ) -> None:
        self._settings = settings
        self._means = means
        self._line = line
        self._reading = ExitStack()
        self._scratch = hold(means.trees().folder / "new" / secrets.token_hex(8))
        self._part: tuple[Path, TreeFile] | None = None
        self._storing = ThreadPoolExecutor(1, thread_name_prefix="storing")
        self._under_way: Future[None] | None = None
        self._open(source)

    def _open(self, source: Source) -> None:
        from actors.training.trainer import Trainer

        means, beat = self._means, self._line.beat
        self._reading.close()
        beat("loading")
        policy = self._reading.enter_context(policy_folder(means, source, beat))
        with checkpoint_folder(means, source, beat) as saved:
            beat("loading the policy")
            self._trainer = Trainer(self._settings, policy, means.images, saved, beat)

    def close(self) -> None:
        """Leave nothing on this node's disk but what is stored and cached."""
        self._storing.shutdown()
        self._reading.close()
        let_go(self._scratch)
        sweep(self._scratch.parent)

    def ready(self) -> dict[str, Any]:
        """Where this trainer stands."""
        return {"step": self._trainer.step, "cursor": self._trainer.cursor}

    def reset(self, settings: LearnSettings, source: Source) -> dict[str, Any]:
        """Begin anew from another policy or checkpoint, in the same process."""
        self._trainer.close()
        del self._trainer
        gc.collect()
        if self._settings.gpus_per_rank:
            import torch

            torch.cuda.empty_cache()  # the next one's pieces are of other sizes
        self._settings = settings
        self._open(source)
        return self.ready()

    def train(
        self, rows: Any, seed: int, first: int, last: int | None, span: Span | None
    ) -> RankReport:
        """See `Trainer.train`."""
        beat = self._line.beat
        return self._trainer.train(_rows(rows), seed, first=first, last=last, span=span, beat=beat)

    def logprobs(self, rows: Any, temperature: float, top_p: float) -> dict[int, list[float]]:
        """See `Trainer.logprobs`."""
        return self._trainer.logprobs(_rows(rows), temperature, top_p, beat=self._line.beat)

    def checkpoint(self, cursor: dict[str, Any]) -> tuple[TreeFile, dict[str, Any]]:
        """Write this rank's part to this node's disk; what it is, and what the checkpoint says
        besides."""
        self._line.beat("writing a checkpoint")
        folder = self._scratch / secrets.token_hex(8)
        with writing_to(folder):
            part = self._trainer.checkpoint_part(folder, self._line.beat)
        self._part = folder / part.path, part
        return part, self._trainer.facts(cursor)

    def store_part(self, path: str) -> None:
        """Begin to bring the part that was written last to the store, under `path`."""
        assert self._part is not None
        (file, part), self._part = self._part, None
        self._under_way = self._storing.submit(self._store, path, file, part)

    def _store(self, path: str, file: Path, part: TreeFile) -> None:
        try:
            put_tree_file(self._means.store, path, file, part, self._line.beat)
            self._means.trees().add(path, file)
            shutil.rmtree(file.parent)
        except Exception as error:
            reason = f"storing a checkpoint: {type(error).__name__}: {error}"
            self._line.refuse(classify(error) or Failure("infrastructure", reason))
            raise
        self._line.stored(path)

    def settle(self) -> None:
        """Wait until this rank's part of the last checkpoint is in the store."""
        if self._under_way is not None:
            self._under_way.result()

    def publish(self) -> str | None:
        """Bring the policy as it is now to the store; its path, from the one rank that does."""
        beat = self._line.beat
        beat("publishing")
        folder = self._scratch / secrets.token_hex(8)
        with writing_to(folder):
            self._trainer.publish(folder, beat)
        if self._trainer.rank != 0:
            return None
        policy = publish_folder(self._means.store, folder, beat)
        self._means.trees().adopt(policy.path, folder)
        return policy.path


def _rows(rows: Any) -> Sequence[TrainRow]:
    """Rows that came as a reference into Ray's store, or as something to call for them."""
    import ray

    return ray.get(rows) if isinstance(rows, ray.ObjectRef) else rows()
