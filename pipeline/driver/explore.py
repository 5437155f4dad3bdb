"""Exploring: a temperature chosen, or a policy's dynamics evaluated, from graded shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.driver.context import RunContext
from pipeline.phases.explore import (
    dynamics_evaluated,
    dynamics_task,
    search_task,
    temperature_chosen,
)
from pipeline.phases.steps import ChooseTemperature, EvaluateDynamics
from pipeline.run.events.event import Event
from pipeline.stages.explore import DynamicsTask, SearchTask
from pipeline.stages.grade import TaskLost


@dataclass
class ExploreStep:
    """A `ChooseTemperature` or `EvaluateDynamics` step under way: one task, and the event of what
    it gives, or of what is lost."""

    step: ChooseTemperature | EvaluateDynamics
    done: bool = False
    _task: SearchTask | DynamicsTask | None = None

    def advance(self, context: RunContext) -> Sequence[Event]:
        """Ask until the answer has come."""
        step, state = self.step, context.state
        if self._task is None and isinstance(step, ChooseTemperature):
            self._task = search_task(step, state)
        elif self._task is None and isinstance(step, EvaluateDynamics):
            self._task = dynamics_task(step, state)
        assert self._task is not None
        answer = context.ask(self._task)
        if answer is None:
            return ()
        self.done = True
        if isinstance(answer, TaskLost):
            return [context.loss_anywhere(answer.path, answer.reason)]
        if isinstance(step, ChooseTemperature):
            return [temperature_chosen(step, answer.value)]
        return [dynamics_evaluated(step, answer.value)]
