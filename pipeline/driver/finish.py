"""Finishing: a run is over once everything that its final comparison reads is readable.

The comparison pairs policies query by query, so it reads the grades of evaluations again, long
after their figures were recorded. An evaluation of which a grade is corrupt or gone is given up and
made again: from its rollouts in the store or, where those are lost too, from its policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.driver.context import RunContext
from pipeline.errors import RunStopped
from pipeline.phases.steps import Finish
from pipeline.refs import ShardSet
from pipeline.reports.comparison import compared_policies
from pipeline.run.events.evaluation import EvaluationLost
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import Finished
from pipeline.run.spec import RunSpec, evaluation_purpose
from pipeline.run.state import GREEDY, State
from pipeline.stages.evaluate import CheckGradesTask, unreadable
from pipeline.stages.tasks import TaskDone
from pipeline.storage.store import Store


@dataclass(frozen=True)
class Compared:
    """An evaluation that the final comparison reads the grades of."""

    version: str
    split: str
    purpose: ShardSet
    grades: tuple[str, ...]


@dataclass
class FinishStep:
    """A `Finish` step under way: one task that reads the grades."""

    step: Finish
    done: bool = False
    _task: CheckGradesTask | None = None

    def advance(self, context: RunContext) -> Sequence[Event]:
        """Ask for what cannot be read; if nothing, the run is finished."""
        names = {"final": self.step.final, "control": self.step.control}
        if self._task is None:
            compared = compared_evaluations(context.state, context.spec, names)
            self._task = CheckGradesTask({one.purpose: one.grades for one in compared})
        answer = context.ask(self._task)
        if answer is None:
            return ()
        self.done = True
        if not isinstance(answer, TaskDone):
            raise RunStopped(f"{answer.path} is corrupt or gone: {answer.reason}")
        lost = give_up(context, names, answer.value)
        return lost or [Finished(self.step.final, self.step.control)]


def compared_evaluations(
    state: State, spec: RunSpec, finished: Mapping[str, Any]
) -> list[Compared]:
    """The evaluations that the final comparison reads.

    finished: which policies are `final` and `control`, as the `finished` event has it.
    """
    policies = {policy.version: policy for policy in compared_policies(state, finished).values()}
    compared = []
    for policy in policies.values():
        for split in spec.test_splits:
            result = state.evaluation(policy, split, GREEDY)
            if result is not None:
                purpose = evaluation_purpose(policy, split, GREEDY)
                compared.append(Compared(policy.version, split, purpose, tuple(result["grades"])))
    return compared


def lost_evaluations(
    state: State, spec: RunSpec, store: Store, finished: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """Path and reason of what the comparison of a finished run cannot read, by purpose."""
    compared = compared_evaluations(state, spec, finished)
    return unreadable(store, {one.purpose: one.grades for one in compared})


def give_up(
    context: RunContext, finished: Mapping[str, Any], lost: Mapping[str, tuple[str, str]]
) -> list[Event]:
    """The events that give up the evaluations of `lost` (by purpose: path and reason).

    Raises:
        RunStopped: one of them is lost again and again.
    """
    events: list[Event] = []
    for one in compared_evaluations(context.state, context.spec, finished):
        if one.purpose in lost:
            path, reason = lost[one.purpose]
            context.count_loss(one.purpose, path, reason)
            context.watch.say(f"{path} is lost ({reason}): it is made again")
            place = one.version, one.split, GREEDY, one.purpose
            events.append(EvaluationLost(*place, path=path, reason=reason))
    return events
