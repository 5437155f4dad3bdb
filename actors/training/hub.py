"""Where the driver and the ranks of a learner meet.

The hub is one Ray actor. It runs Ray Train's `fit()` on a thread of its own (which would otherwise
hold the driver's main thread and its Ctrl-C), holds the command under way, collects the ranks'
answers and knows when each of them was last heard. Always: a command has at most one outcome, an
answer of every rank or a failure; a rank that waits for a command waits here, outside any
collective; and everything Ray Train started belongs to this process, so killing the hub takes the
controller and all ranks with it.

    driver ── command ──► hub ◄── next ── rank 0 … R-1
           ◄── outcome ──     ◄── beat, answer, refuse ──
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from actors.supervision.failures import Failure, classify
from actors.supervision.node_cache import take_temporary_folder
from pipeline.training.settings import LearnSettings, resources_of_rank

# Actors that Ray Train starts for every group and this one has no use for: they cost processes, and
# the first asks the dashboard every second whether the controller lives. The placement group is
# ours through the controller, and goes with this process.
NEEDLESS = {"PlacementGroupCleanerCallback", "DatasetsCallback"}

# Ray Train's own housekeeping that this learner has no use for, or needs sooner.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
}


@dataclass(frozen=True)
class CommandStatus:
    """How a command stands: under way, done or failed.

    answers: by rank, once it is done. failure: why it never will be. doing: what the ranks last
    said they were doing.
    """

    answers: tuple[Any, ...] | None = None
    failure: Failure | None = None
    doing: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.answers is not None or self.failure is not None


@dataclass
class _Rank:
    heard: float
    doing: str = "not started"
    place: tuple[str, int] | None = None


@dataclass
class _Board:
    number: int = 0
    command: tuple[str, dict[str, Any]] | None = None
    answers: dict[int, Any] = field(default_factory=dict)
    refusal: Failure | None = None


class Hub:
    """The actor's body; every method may be called from any thread."""

    def __init__(
        self, settings: LearnSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._settings = settings
        self._up = False
        self._board = _Board()
        self._ranks = {rank: _Rank(clock()) for rank in range(settings.ranks)}
        self._stored: dict[str, set[int]] = {}
        self._fit: Future[Any] | None = None
        self._folder: str | None = None

    # --- for the driver ---

    def launch(self, config: dict[str, Any]) -> None:
        """Start the worker group; returns at once."""
        os.environ.update(TRAIN_ENVIRONMENT)
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(self._settings.start_s)
        # Ray Train's few bytes. Ranks elsewhere do not see it, nor look: no checkpoint is its own.
        take_temporary_folder()
        self._folder = tempfile.mkdtemp(prefix="mstar-learner-")
        trainer = _torch_trainer(self._settings, config, self._folder)
        self._fit = ThreadPoolExecutor(1, thread_name_prefix="fit").submit(trainer.fit)
        self._fit.add_done_callback(lambda _: self._wake())

    def command(self, name: str, options: dict[str, Any]) -> int:
        """Give the ranks something to do; its number."""
        with self._changed:
            now = self._clock()
            for rank in self._ranks.values():
                rank.heard = now
            self._board = _Board(self._board.number + 1, (name, options))
            self._changed.notify_all()
            return self._board.number

    def status(self, number: int, wait_s: float) -> CommandStatus:
        """How command `number` stands, after at most `wait_s` seconds of waiting for its end."""
        with self._changed:
            self._changed.wait_for(lambda: self._status().ended, timeout=wait_s)
            if number != self._board.number:
                raise ValueError(
                    f"command {number} was asked for, {self._board.number} is under way"
                )
            return self._status()

    def dismiss(self) -> bool:
        """Tell the ranks to leave; False when they are busy and would not hear it."""
        with self._changed:
            idle = self._status().answers is not None
            if idle:
                self.command("leave", {})
            return idle

    def ended(self, wait_s: float) -> bool:
        """Whether the worker group has ended, after at most `wait_s` seconds; tidies up if so."""
        with self._changed:
            self._changed.wait_for(self._over, timeout=wait_s)
        if self._over() and self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None
        return self._over()

    def all_stored(self, path: str) -> bool:
        """Whether every rank's part of a checkpoint is in the store."""
        with self._changed:
            return self._stored.get(path, set()) == self._ranks.keys()

    def places(self) -> list[tuple[str, int]]:
        """Node id and process id of the ranks that reported."""
        with self._changed:
            return [rank.place for rank in self._ranks.values() if rank.place is not None]

    # --- for the ranks ---

    def beat(self, rank: int, doing: str, place: tuple[str, int] | None = None) -> None:
        """A rank is alive and makes progress."""
        with self._changed:
            self._ranks[rank].heard, self._ranks[rank].doing = self._clock(), doing
            self._ranks[rank].place = place or self._ranks[rank].place

    def next(self, rank: int, after: int, wait_s: float) -> tuple[int, str, dict[str, Any]] | None:
        """The command after number `after`, or None when there is none within `wait_s` seconds."""
        self.beat(rank, "waiting")
        with self._changed:
            self._changed.wait_for(lambda: self._board.number > after, timeout=wait_s)
            self.beat(rank, "waiting")
            if self._board.number <= after or self._board.command is None:
                return None
            return self._board.number, *self._board.command

    def answer(self, rank: int, number: int, value: Any) -> None:
        """A rank has done what was asked."""
        with self._changed:
            if number == self._board.number:
                self._board.answers[rank] = value
                self._up = self._up or len(self._board.answers) == len(self._ranks)
                self._changed.notify_all()

    def stored(self, rank: int, path: str) -> None:
        """A rank's part of the checkpoint `path` is in the store."""
        with self._changed:
            self._stored.setdefault(path, set()).add(rank)

    def refuse(self, rank: int, failure: Failure) -> None:
        """A rank cannot do what was asked, for a reason that has a meaning; it is about to end."""
        with self._changed:
            self._board.refusal = replace(failure, reason=f"rank {rank}: {failure.reason}")
            self._changed.notify_all()

    # --- inside (the lock is held, and re-entrant) ---

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _over(self) -> bool:
        return self._fit is None or self._fit.done()

    def _status(self) -> CommandStatus:
        answers, doing = self._board.answers, self._doing()
        if len(answers) == len(self._ranks):
            return CommandStatus(tuple(answers[rank] for rank in self._ranks), doing=doing)
        return CommandStatus(failure=self._board.refusal or self._ended_or_hung(), doing=doing)

    def _ended_or_hung(self) -> Failure | None:
        if self._over():
            error = self._fit.exception() if self._fit is not None else None
            if error is None:
                return Failure("infrastructure", "the group ended")
            reason = f"{type(error).__name__}: {error}"
            return classify(error) or Failure("infrastructure", reason)
        patience = self._settings.hang_s if self._up else self._settings.start_s
        # Who has answered waits for the others, and asks for its next order now and then.
        busy = [each for rank, each in self._ranks.items() if rank not in self._board.answers]
        if self._clock() - min(rank.heard for rank in busy) <= patience:
            return None
        reason = f"no progress for {patience:g} s: {self._doing()}"
        return Failure("infrastructure", reason)

    def _doing(self) -> str:
        return "; ".join(f"rank {number}: {rank.doing}" for number, rank in self._ranks.items())


def _torch_trainer(settings: LearnSettings, config: dict[str, Any], storage: str) -> Any:
    """Ray Train as launcher and rendezvous only: a name that was never used (it would load that
    name's old checkpoint), no checkpoint, no retries."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import LoggingConfig

    from actors.training.rank import run_rank

    return _trimmed_trainer()(
        run_rank,
        train_loop_config=config,
        torch_config=TorchConfig(
            backend="nccl" if settings.gpus_per_rank else "gloo",
            timeout_s=settings.collective_timeout_s,
        ),
        scaling_config=ScalingConfig(
            num_workers=settings.ranks,
            use_gpu=settings.gpus_per_rank > 0,
            resources_per_worker=resources_of_rank(settings),
        ),
        run_config=RunConfig(
            name=f"learner-{uuid.uuid4().hex}",
            storage_path=storage,
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _trimmed_trainer() -> Any:
    """Ray Train's torch trainer without the actors named in NEEDLESS; where a version of Ray builds
    its callbacks elsewhere, they are merely there again."""
    from ray.train.torch import TorchTrainer

    class Trimmed(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [each for each in callbacks if type(each).__name__ not in NEEDLESS]

    return Trimmed
