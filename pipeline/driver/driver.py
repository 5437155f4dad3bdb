"""The driver: does the next thing on the agenda, records it, and forgets everything else.

What always holds:

* the ledger is the only truth: the driver's state is a fold over it, so it may be killed at any
  instruction and started again anywhere. What it holds besides (what is under way) is only an
  optimisation, and doing a piece of work twice changes nothing;
* an object is named in an event only after it is complete in the store, and events that became
  ready together are committed together;
* shards are dispatched in plan order and never further than `lookahead` beyond the first unfinished
  one; selections are handed to the learner in plan order, whatever order they came in;
* one thread; all waiting is in one place.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config.fields import to_dict
from pipeline.config.load import stored_config
from pipeline.config.resume import check_resume, config_hash
from pipeline.config.schema import Config
from pipeline.driver.annotate import annotate
from pipeline.driver.evaluate import finish, give_up, lost_evaluations, sum_up
from pipeline.driver.judge import judge
from pipeline.driver.losses import lose_labels
from pipeline.driver.sample import SampleStage
from pipeline.errors import BadConfig, RunStopped
from pipeline.hashing import canonical_json
from pipeline.phases import order
from pipeline.phases.lineage import retirable
from pipeline.phases.steps import (
    Annotate,
    ChooseWarmup,
    CloseIteration,
    Evaluate,
    Finish,
    JudgePrm,
    PublishFolder,
    SampleShards,
    SkipTraining,
    Step,
    Train,
)
from pipeline.refs import CheckpointRef, PolicyRef
from pipeline.reports.iteration import iteration_row
from pipeline.run.events.event import Event
from pipeline.run.events.wire import from_wire, replay
from pipeline.run.lease import Lease
from pipeline.run.ledger import Ledger
from pipeline.run.queries import store_queries
from pipeline.run.same_run import check_same_means
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.stages.workers import Progress, Watch, Workers
from pipeline.storage.models import publish_folder
from pipeline.storage.store import Store
from pipeline.storage.trees import delete_tree
from pipeline.training.job import LearnDone, LearnFailed, LearnJob, LearnProgress, LearnSaved

POLL_S = 0.05

# A shard or a checkpoint that is lost this often in one driver's life is not bad luck.
MAX_LOSSES = 5


class Driver:
    """Runs a program to its end.

                ┌───────────────────────── next_step(state) ◄──────────────────────────┐
                ▼                                                                      │
    ┌─ PublishFolder ── a model folder of the user's ──────────► policy_published ─────┤
    │                                                                                  │
    ├─ SampleShards ──► fleet ──► shard_accepted ──► grader ──► shard_graded           │
    │      ▲  ▲            (or adopted)    │                       │                   │
    │      │  └──── object_lost ◄──────────┴───────────────────────┤                   │
    │      └─────── more to do                                all graded               │
    │                                                              └─► sampling_closed ┤
    ├─ Measure ────── grades ──► evaluated, or object_lost ────────────────────────────┤
    │                                                                                  │
    ├─ Train ───────► learner ──► checkpoint_saved* ──► job_done + retired ────────────┤
    │      ▲             └─ infrastructure: again, from the last checkpoint            │
    │      └──────────────┘  lost: object_lost, or checkpoint_lost ─────────────────── ┤
    │                        guard: the run stops                                      │
    ├─ SkipTraining ──────────────────────────────────────────────► job_skipped ───────┤
    ├─ ChooseWarmup ──────────────────────────────────────────────► warmup_chosen ─────┤
    ├─ CloseIteration ────────────────────────────────────────► iteration_closed ──────┤
    └─ Finish ────── grades ──► evaluation_lost, or ──────────────► finished ──► done  │
                                                                                       ▼
    """

    def __init__(
        self,
        program: RunSpec,
        store: Store,
        ledger: Ledger,
        world: Workers,
        watch: Watch,
        *,
        lease: Lease | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.program = program
        self.store = store
        self.ledger = ledger
        self.world = world
        self.watch = watch
        self.state = State()
        self._lease = lease
        self._clock = clock
        self._sleep = sleep
        self._started = clock()
        self._losses: Counter[str] = Counter()

    def run(self, until: Callable[[State], bool] = lambda state: False) -> State:
        """To the end (or `until` a state), from wherever the ledger says the run is.

        Raises:
            BadConfig: the ledger belongs to a run of another meaning.
            RunStopped: going on makes no sense, with the reason.
        """
        self._begin()
        while not until(self.state) and (step := order.next_step(self.state, self.program)):
            self._do(step)
        return self.state

    # -- beginning and recording ----------------------------------------------------------------

    def _begin(self) -> None:
        written = -1 if self._lease is None else self._lease.inherited_position
        snapshot, events = self.ledger.resume(at_least=written)
        self.state = replay(events, State() if snapshot is None else State.from_dict(snapshot))
        config = self.program.config
        if self.state.config is None:
            created = {
                "type": "run_created",
                "config": to_dict(config),
                "config_hash": config_hash(config),
                "data": self.program.fingerprint,
                "queries": store_queries(self.store, self.program),
                "versions": self.world.versions,
            }
            self.commit("prepare", [created])
            return
        noted = self._check_same_run(config)
        done, lost = self.state.finished, list[dict[str, Any]]()
        if done is not None:
            lost = lost_evaluations(self.state, self.program, self.store, done)
        if done is None or lost:
            started = {"type": "driver_started", "versions": self.world.versions, "changes": noted}
            (event,) = self._stamped("prepare", [started])
            # From here on nothing that an earlier driver of this run still writes is accepted.
            self._written(self.ledger.claim(event, lambda wire: self.state.apply(from_wire(wire))))
            self._fold([event])
        if lost:
            self.commit("final/evaluate", give_up(self, lost))
        self._delete_retired()

    def _check_same_run(self, config: Config) -> list[str]:
        """Refuses to go on as another run; gives the changes that were said aloud."""
        assert self.state.config is not None
        old = stored_config(self.state.config)
        changes = [str(change) for change in check_resume(old, config)]
        for change in changes:
            self.watch.say(f"changed since the run was started: {change}")
        if self.program.fingerprint["splits"] != self.state.data["splits"]:
            raise BadConfig(
                f"run {config.run.name!r}: the questions or answers of the data are not those it "
                "was started with; give the new run a name of its own (--set run.name=...)"
            )
        check_same_means(self.program, self.state)
        return changes

    def commit(self, stage: str, events: Sequence[Event | Mapping[str, Any]]) -> None:
        """Ledger first, then the state: the very events that a replay would read."""
        stamped = self._stamped(stage, events)
        self._written(self.ledger.append(stamped))
        self._fold(stamped)

    def _written(self, position: int) -> None:
        """The lease tells a successor how far the ledger must reach."""
        if self._lease is not None:
            self._lease.position = position

    def _stamped(
        self, stage: str, events: Sequence[Event | Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Events as a replay will read them: plain JSON, with stage and time."""
        at = round(self._clock() - self._started, 3)
        wires = [event.to_wire() if isinstance(event, Event) else event for event in events]
        return [json.loads(canonical_json({**wire, "stage": stage, "at": at})) for wire in wires]

    def _fold(self, wires: Sequence[Mapping[str, Any]]) -> None:
        events = [from_wire(wire) for wire in wires]
        for event in events:
            self.state.apply(event)
        for event in events:
            self.watch.event(event, self.state)

    # -- steps ----------------------------------------------------------------------------------

    def _do(self, step: Step) -> None:
        match step:
            case PublishFolder():
                self._publish(step)
            case SampleShards():
                SampleStage(self, step).run()
            case Evaluate():
                sum_up(self, step)
            case Train():
                self._train(step)
            case SkipTraining():
                self.watch.say(f"{step.job}: nothing was selected, so nothing is trained")
                skipped = {"type": "job_skipped", "job": step.job, "policy": asdict(step.policy)}
                self.commit(step.stage, [skipped])
            case ChooseWarmup():
                self.commit(step.stage, [{"type": "warmup_chosen", "name": step.name}])
            case Annotate() | JudgePrm():
                build(self, step)
            case CloseIteration():
                row = iteration_row(self.state, self.program, step.iteration)
                closed = {"type": "iteration_closed", "iteration": step.iteration, "row": row}
                self.commit(step.stage, [closed])
                self.ledger.snapshot(self.state.to_dict())
            case Finish():
                finish(self, step)

    def _publish(self, step: PublishFolder) -> None:
        policy = publish_folder(self.store, Path(step.folder))
        self.commit(step.stage, [_published(step.name, policy)])

    def loss(self, purpose: str, path: str, reason: str) -> dict[str, Any]:
        """The event that says that an object of a purpose is corrupt or gone, to be made again.

        Raises:
            RunStopped: it belongs to no open shard, or it is lost again and again.
        """
        index = self._shard_with(purpose, path)
        if index is None:
            raise RunStopped(f"{path} is corrupt or gone, and nothing can make it again: {reason}")
        self.count_loss(f"shard {index} of {purpose}", path, reason)
        self.watch.say(f"{path} is lost ({reason}): it is made again")
        return {
            "type": "object_lost",
            "purpose": purpose,
            "index": index,
            "path": path,
            "reason": reason,
        }

    def count_loss(self, what: str, path: str, reason: str) -> None:
        """One more loss of `what` in this driver's life; too many stop the run."""
        self._losses[what] += 1
        if self._losses[what] > MAX_LOSSES:
            raise RunStopped(
                f"{what} was lost {MAX_LOSSES + 1} times, the last time {path}: {reason}. "
                "The store does not keep what it is given."
            )

    def mended(self, path: str, reason: str) -> bool:
        """Put an object that no shard of ours made back into the store, if somebody has a copy."""
        self._losses[path] += 1
        if self._losses[path] > MAX_LOSSES or not self.world.repair(path):
            return False
        self.watch.say(f"{path} was lost ({reason}) and has been put back")
        return True

    def _shard_with(self, purpose: str, path: str) -> int | None:
        for index, shard in self.state.shards.get(purpose, {}).items():
            if path in (shard.rollout, shard.grades, shard.scores, shard.selected):
                return index
        return None

    # -- learning -------------------------------------------------------------------------------

    def _train(self, step: Train) -> None:
        job, failures = step.job, 0
        self.world.learner.submit(job, self._resume_point(job))
        while True:
            events = [e for e in self.world.learner.poll() if e.job == job.name]
            if not events:
                self.rest()
            for event in events:
                match event:
                    case LearnProgress():
                        self.watch.progress(_progress(step.stage, event))
                    case LearnSaved():
                        failures = 0
                        self.commit(step.stage, self._saved(job, event.checkpoint))
                        self._delete_retired()
                    case LearnDone():
                        self.commit(step.stage, self._learned(job, event))
                        self._delete_retired()
                        return
                    case LearnFailed(kind="infrastructure"):
                        failures += 1
                        self._back_off(event, failures)
                        self.world.learner.submit(job, self._resume_point(job))
                    case LearnFailed(kind="lost"):
                        if not self.mended(event.path, event.reason):
                            self._lost_in_training(step, event)
                        return
                    case LearnFailed():
                        raise RunStopped(f"{job.name}: {event.reason}")

    def _resume_point(self, job: LearnJob) -> CheckpointRef | None:
        """The last checkpoint inside this very job: same start, same rows, same settings."""
        known = self.state.jobs.get(job.name)
        return known.checkpoint if known is not None and known.key == job.key else None

    def _saved(self, job: LearnJob, checkpoint: CheckpointRef) -> list[dict[str, Any]]:
        saved = {
            "type": "checkpoint_saved",
            "job": job.name,
            "key": job.key,
            "checkpoint": asdict(checkpoint),
        }
        return [saved, *self._retire(job, checkpoint)]

    def _learned(self, job: LearnJob, done: LearnDone) -> list[dict[str, Any]]:
        learned = {"type": "job_done", "key": job.key, **asdict(done)}
        return [learned, *self._retire(job, done.checkpoint)]

    def _retire(self, job: LearnJob, newest: CheckpointRef) -> list[dict[str, Any]]:
        """The old goes after the new is recorded; where the job started stays until the next."""
        paths = retirable(self.state, keep=(newest, job.start))
        return [{"type": "retired", "paths": paths}] if paths else []

    def _delete_retired(self) -> None:
        for path in self.state.retired:
            delete_tree(self.store, path)

    def _back_off(self, event: LearnFailed, failures: int) -> None:
        allowed = self.program.config.learn.attempts
        if failures >= allowed:
            raise RunStopped(
                f"{event.job}: the learner died {failures} times without a new checkpoint "
                f"(learn.attempts = {allowed}), the last time: {event.reason}"
            )
        pause = min(60.0, 2.0 ** (failures - 1))
        self.watch.say(
            f"{event.job}: the learner died ({event.reason}); starting it again in {pause:.0f} s"
        )
        self._sleep(pause)

    def _lost_in_training(self, step: Train, event: LearnFailed) -> None:
        job, known = step.job, self._resume_point(step.job)
        if known is not None and event.path == known.path and self._losses[known.path] < MAX_LOSSES:
            self.watch.say(f"{job.name}: its checkpoint {event.path} is lost ({event.reason}); "
                           "the job starts again from its beginning")  # fmt: skip
            lost = {"type": "checkpoint_lost", "job": job.name, "path": event.path}
            self.commit(step.stage, [lost | {"reason": event.reason}])
            return
        if job.prm is not None:
            lose_labels(self, step.stage, event.path, event.reason)
            return
        purpose = "warmup" if not job.name.startswith("evolve/") else job.name
        self.commit(step.stage, [self.loss(purpose, event.path, event.reason)])

    def rest(self) -> None:
        """Nothing is ready: let others work."""
        self.world.check()
        self._sleep(POLL_S)


def _published(name: str, policy: PolicyRef) -> dict[str, Any]:
    return {"type": "policy_published", "name": name, **asdict(policy)}


def _progress(stage: str, event: LearnProgress) -> Progress:
    loss = "" if event.loss is None else f"loss {event.loss:.3f}"
    note = event.doing or loss
    return Progress(stage, event.steps, event.steps_total, "steps", note, event.curve)


def build(driver: Driver, step: Annotate | JudgePrm) -> None:
    """One of the two steps of building a PRM that are the driver's own."""
    if isinstance(step, Annotate):
        annotate(driver, step)
    else:
        judge(driver, step)
