"""A learner whose answers come late and twice, and roles that fail whatever they were doing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Literal

from pipeline.generation.fleet import ShardFailed
from pipeline.refs import CheckpointRef
from pipeline.simulation.learner import ScriptedLearner
from pipeline.simulation.mail import Mail
from pipeline.training.job import LearnEvent, LearnFailed, LearnJob, LearnProgress

GAVE_UP = "every engine died"


class Careless:
    """The learner, `slow` of whose answers wait for a later call while it goes on working.

    Of each call the share `twice` gives again what was said before: how far it is, or anything
    about a job before this one. What it says of a job in order, and once, since one queue in the
    driver's process brings it.
    """

    def __init__(self, learner: ScriptedLearner, random: Random, slow: float, twice: float) -> None:
        self._learner, self._random = learner, random
        self._slow, self._twice = slow, twice
        self._waiting: list[LearnEvent] = []
        self._old: list[LearnEvent] = []
        self._job = ""

    def submit(self, job: LearnJob, resume: CheckpointRef | None) -> None:
        self._job = job.name
        self._learner.submit(job, resume)

    def poll(self) -> Sequence[LearnEvent]:
        self._waiting += self._learner.poll()
        late = self._random.random() < self._slow
        count = self._random.randint(0, len(self._waiting)) if late else len(self._waiting)
        out, self._waiting = self._waiting[:count], self._waiting[count:]
        again = [e for e in self._old if isinstance(e, LearnProgress) or e.job != self._job]
        self._old += out
        if again and self._random.random() < self._twice:
            return [*out, self._random.choice(again)]
        return out


def fail(learner: ScriptedLearner, mail: Mail, pick: int) -> Literal["rank", "shard", ""]:
    """The learner's ranks die or, by `pick`, the engines of a shard under way; "": none is."""
    if pick % 2:
        if learner.work is None:
            return ""
        learner.unread = [LearnFailed(learner.work.job.name, "infrastructure", "rank 1 died")]
        learner.work = None
        return "rank"
    if not mail.waiting:
        return ""
    item: Any = mail.waiting.pop(pick % len(mail.waiting))
    mail.post(ShardFailed(item.args[0].key if callable(item) else item.key, GAVE_UP))
    return "shard"
