"""What one process of the learner's worker group runs: a `Trainer` that takes orders from the hub.

Always: a rank waits for orders outside any collective; every order is answered once or the process
ends with the error; a failure that has a meaning is told to the hub before that, because exceptions
lose their type on the way through Ray Train.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors.supervision.failures import classify
from pipeline.storage.disk import writing_to
from pipeline.training.metrics import RankReport
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings, Span

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
    """Ray Train's training function. config: hub, settings, policy, images, checkpoint."""
    import ray
    from ray import train

    hub, rank = config["hub"], train.get_context().get_world_rank()
    place = (ray.get_runtime_context().get_node_id(), os.getpid())
    ray.get(hub.beat.remote(rank, "starting", place))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
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

    desk = Desk(config, Beats(hub, rank))
    done = 0
    while True:
        order = ray.get(hub.next.remote(rank, done, POLL_S))
        if order is None:
            continue
        done, name, options = order
        if name == "leave":
            ray.get(hub.answer.remote(rank, done, None))
            return
        ray.get(hub.answer.remote(rank, done, getattr(desk, name)(**options)))


class Beats:
    """Tells the hub what a rank is doing, at most once a second."""

    def __init__(self, hub: Any, rank: int) -> None:
        self._hub, self._rank, self._next = hub, rank, 0.0

    def __call__(self, doing: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + BEAT_S
            self._hub.beat.remote(self._rank, doing)


class Desk:
    """The orders a rank understands, one method each."""

    def __init__(self, config: dict[str, Any], beat: Callable[[str], None]) -> None:
        self._settings: LearnSettings = config["settings"]
        self._images = config["images"]
        self._beat = beat
        self._open(config["policy"], config["checkpoint"])

    def _open(self, policy: str, checkpoint: str | None) -> None:
        from actors.training.trainer import Trainer

        self._beat("loading")
        saved = Path(checkpoint) if checkpoint is not None else None
        self._trainer = Trainer(self._settings, Path(policy), self._images, saved)

    def ready(self) -> dict[str, Any]:
        """Where this trainer stands."""
        return {"step": self._trainer.step, "cursor": self._trainer.cursor}

    def reset(self, settings: LearnSettings, policy: str, checkpoint: str | None) -> dict[str, Any]:
        """Begin anew from another policy or checkpoint, in the same process."""
        self._trainer.close()
        del self._trainer
        gc.collect()
        self._settings = settings
        self._open(policy, checkpoint)
        return self.ready()

    def train(
        self, rows: Any, seed: int, first: int, last: int | None, span: Span | None
    ) -> RankReport:
        """See `Trainer.train`."""
        return self._trainer.train(
            _rows(rows), seed, first=first, last=last, span=span, beat=self._beat
        )

    def logprobs(self, rows: Any, temperature: float, top_p: float) -> dict[int, list[float]]:
        """See `Trainer.logprobs`."""
        return self._trainer.logprobs(_rows(rows), temperature, top_p, beat=self._beat)

    def checkpoint(
        self, folder: str, cursor: dict[str, Any]
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """This rank's part and what the checkpoint says besides."""
        self._beat("writing a checkpoint")
        with writing_to(Path(folder)):
            return self._trainer.checkpoint_part(Path(folder)), self._trainer.facts(cursor)

    def publish(self, folder: str) -> None:
        """See `Trainer.publish`."""
        self._beat("publishing")
        with writing_to(Path(folder)):
            self._trainer.publish(Path(folder))


def _rows(rows: Any) -> Sequence[TrainRow]:
    """Rows that came as a reference into Ray's store, or as something to call for them."""
    import ray

    return ray.get(rows) if isinstance(rows, ray.ObjectRef) else rows()
