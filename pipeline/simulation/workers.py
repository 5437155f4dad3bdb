"""The scripted workers of one run, together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from pipeline.run.spec import RunSpec
from pipeline.simulation.fleet import ScriptedFleet, decode
from pipeline.simulation.grader import ScriptedGrader
from pipeline.simulation.learner import ScriptedLearner
from pipeline.simulation.mail import Answers, Mail
from pipeline.simulation.scorer import ScriptedScorer
from pipeline.stages.score import scored_how
from pipeline.stages.tasks import StageTask, TaskContext, perform
from pipeline.stages.workers import Workers
from pipeline.storage.store import Store


class ScriptedStages(Answers):
    """Does tasks when they are handed out, and answers when the mail does."""

    def __init__(self, context: TaskContext, mail: Mail) -> None:
        self.context = context
        self.mail = mail

    def submit(self, task: StageTask) -> None:
        self.mail.post(perform(task, self.context))


class AtOnce:
    """A worker that does everything when it is asked to, in the caller's process.

    perform: from what is submitted to its answer.
    """

    def __init__(self, perform: Callable[..., Any]) -> None:
        self._perform = perform
        self._ended: list[Any] = []

    def submit(self, *asked: Any) -> None:
        self._ended.append(self._perform(*asked))

    def poll(self) -> list[Any]:
        ended, self._ended = self._ended, []
        return ended


def in_process(context: TaskContext) -> AtOnce:
    """A stage worker that does every task at once."""
    return AtOnce(partial(perform, context=context))


@dataclass(frozen=True)
class ScriptedWorkers:
    """Each worker by name; `workers` is what a driver takes."""

    fleet: ScriptedFleet
    grader: ScriptedGrader
    learner: ScriptedLearner
    stage: ScriptedStages
    scorer: ScriptedScorer

    @property
    def workers(self) -> Workers:
        return Workers(self.fleet, self.grader, self.learner, self.stage, self.scorer)


def scripted_workers(
    store: Store, spec: RunSpec, seed: int = 0, twice: float = 0.0
) -> ScriptedWorkers:
    """Workers over a store. seed: of the order and the delay of their answers; twice: as of a
    `Mail`."""
    random = Random(seed)
    with_prm = spec.config.select.reward == "prm"
    context = TaskContext(store, spec, lambda policy: decode)
    return ScriptedWorkers(
        ScriptedFleet(store, spec.by_hash, Mail(random, twice), steps=with_prm),
        ScriptedGrader(store, Mail(random, twice), spec.config.prompt.shapes),
        ScriptedLearner(store, random),
        ScriptedStages(context, Mail(random, twice)),
        ScriptedScorer(store, Mail(random, twice), scored_how(spec.config)),
    )


class Hooked:
    """A worker that tells `hook` before and after each of its calls."""

    def __init__(self, worker: Any, name: str, hook: Callable[[str], None]) -> None:
        self._worker, self._name, self._hook = worker, name, hook

    def submit(self, *args: Any) -> None:
        self._hook(f"before {self._name}.submit")
        self._worker.submit(*args)
        self._hook(f"after {self._name}.submit")

    def poll(self) -> Any:
        self._hook(f"before {self._name}.poll")
        answer = self._worker.poll()
        self._hook(f"after {self._name}.poll")
        return answer
