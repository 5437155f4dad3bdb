"""Evaluating: a policy's figures on a split, from the graded shards of its responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.driver.context import RunContext
from pipeline.phases.steps import Evaluate
from pipeline.run.events.evaluation import Evaluated
from pipeline.run.events.event import Event
from pipeline.stages.evaluate import EvaluateTask
from pipeline.stages.grade import TaskLost


@dataclass
class EvaluateStep:
    """An `Evaluate` step under way: one task, and the event of its figures, or of what is lost."""

    step: Evaluate
    done: bool = False
    _task: EvaluateTask | None = None

    def advance(self, context: RunContext) -> Sequence[Event]:
        """Ask for the figures until they have come."""
        step = self.step
        shards = context.state.shards[step.purpose]
        task = self._task = self._task or EvaluateTask.of(step.split, step.mode, shards)
        answer = context.ask(task)
        if answer is None:
            return ()
        self.done = True
        if isinstance(answer, TaskLost):
            return [context.loss(step.purpose, answer.path, answer.reason)]
        grades = [shard.grades for shard in task.shards]
        version = step.policy.version
        return [Evaluated(version, step.split, step.mode, step.purpose, grades, answer.value)]
