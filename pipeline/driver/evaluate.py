"""The driver's work on evaluations: from graded shards to figures, and grades that stay readable.

The final comparison pairs policies question by question, so it reads the grades of evaluations
again, long after their shards were summed up. A run is only finished with all of them readable:
an evaluation of which a grade is corrupt or gone is given up and made again, from its rollouts in
the store, or, where those are lost too, from its policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArtifactLost
from pipeline.phases.steps import Evaluate, Finish
from pipeline.records import Grade
from pipeline.reports.comparison import compared_policies
from pipeline.run.spec import RunSpec, evaluation_purpose
from pipeline.run.state import GREEDY, State
from pipeline.selection.coverage import Coverage
from pipeline.stages.evaluate import EvaluateTask, StoredShard
from pipeline.stages.tasks import TaskContext
from pipeline.storage.artifacts import read_rows
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from pipeline.driver.driver import Driver


def sum_up(driver: Driver, step: Evaluate) -> None:
    """An evaluation's figures from its shards, in one event; what cannot be read is named."""
    state, program = driver.state, driver.program
    shards = [shard for _, shard in sorted(state.shards[step.purpose].items())]
    paths = [shard.grades for shard in shards if shard.grades is not None]
    coverage = sum((Coverage(**shard.coverage) for shard in shards), Coverage())
    stored = tuple(StoredShard.of(shard) for shard in shards)
    task = EvaluateTask(step.split, step.mode, stored, coverage.to_dict())
    try:
        result = task.run(TaskContext(driver.store, program))
    except ArtifactLost as lost:
        driver.commit(step.stage, [driver.loss(step.purpose, lost.path, lost.reason)])
        return
    evaluated = {
        "type": "evaluated",
        "version": step.policy.version,
        "split": step.split,
        "mode": step.mode,
        "purpose": step.purpose,
        "grades": paths,
        "result": result,
    }
    driver.commit(step.stage, [evaluated])


def finish(driver: Driver, step: Finish) -> None:
    """Record which policies are final and control, if what they are compared by can be read."""
    named = {"final": step.final, "control": step.control}
    lost = give_up(driver, lost_evaluations(driver.state, driver.program, driver.store, named))
    driver.commit(step.stage, lost or [{"type": "finished", **named}])


def lost_evaluations(
    state: State, program: RunSpec, store: Store, finished: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """For each evaluation that the final comparison cannot read, the event that gives it up.

    finished: which policies are `final` and `control`, as the `finished` event has it.
    """
    policies = {one.version: one for one in compared_policies(state, finished).values()}
    found = []
    for policy in policies.values():
        for split in program.test_splits:
            result = state.evaluation(policy, split, GREEDY)
            lost = None if result is None else _lost(store, result["grades"])
            if lost is not None:
                named = {"version": policy.version, "split": split, "mode": GREEDY}
                purpose = evaluation_purpose(policy, split, GREEDY)
                told = {"purpose": purpose, "path": lost.path, "reason": lost.reason}
                found.append({"type": "evaluation_lost", **named, **told})
    return found


def _lost(store: Store, grades: list[str]) -> ArtifactLost | None:
    """The first of these objects that cannot be read."""
    for path in grades:
        try:
            read_rows(store, path, Grade)
        except ArtifactLost as lost:
            return lost
    return None


def give_up(driver: Driver, lost: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These events, counted and said.

    Raises:
        RunStopped: one of the evaluations is lost again and again.
    """
    for event in lost:
        driver.count_loss(event["purpose"], event["path"], event["reason"])
        driver.watch.say(f"{event['path']} is lost ({event['reason']}): it is made again")
    return lost
