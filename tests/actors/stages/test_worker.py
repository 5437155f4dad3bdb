"""Grading and stage tasks outside the driver's process: answers, failures, a worker that dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.grading.pool import GradePool, GradeResult, GradingFailed
from actors.stages.worker import PoolStages, ShardGraded, Stages, StageWork, stage_pool
from actors.supervision.pool import PoolBroken, Result
from jobs.runtime.ray_cluster import init_ray
from pipeline.errors import RunStopped
from pipeline.generation.fleet import ShardDone
from pipeline.query import Query
from pipeline.records import AnswerClass, Grade, Rollout, Selected
from pipeline.run.shard_answers import GradeDone
from pipeline.run.spec import RunSpec
from pipeline.selection.pseudo_labels import Voting
from pipeline.selection.rules import Rule
from pipeline.simulation.grader import grade
from pipeline.simulation.small_trees import put_small_tree
from pipeline.simulation.workers import scripted_workers
from pipeline.stages.adopt import AdoptTask
from pipeline.stages.grade import GradeTask, TaskLost
from pipeline.stages.tasks import StageTask, TaskContext, TaskDone
from pipeline.storage.artifacts import put_content, read_rows
from pipeline.storage.models import policy_at
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store, open_store
from tests.support.processes import processes
from tests.support.scripted import make_config, make_program

# Longer than what it waits for, on a busy machine.
pytestmark = pytest.mark.timeout(600)


class FakeGraders:
    """Grades as the scripted grader does; the first answer cannot be graded, or compared."""

    def __init__(self, refused: str = "", not_compared: str = "") -> None:
        self.refused, self.not_compared = refused, not_compared

    def grade_many(self, items: Sequence[tuple[str, Query]]) -> Sequence[GradeResult]:
        graded: list[Any] = [
            GradeResult(result.outcome, result.extracted)  # type: ignore[arg-type]
            for result in (grade(text, query) for text, query in items)
        ]
        if self.refused:
            raise GradingFailed([(0, self.refused)], [None, *graded[1:]])
        if self.not_compared:
            graded[0] = replace(graded[0], reason=self.not_compared)
        return graded


@pytest.fixture
def program() -> RunSpec:
    return make_program(make_config(grade={"processes": 1}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def rollouts(store: Store, program: RunSpec) -> tuple[GradeTask, AdoptTask, ShardDone]:
    """A shard of a scripted fleet: to be graded, to be adopted, and what the fleet said of it."""
    fleet = scripted_workers(store, program).fleet
    content = {"skill": 0.5, "trained": "nothing"}
    policy = policy_at(put_small_tree(store, "policies", "model.json", content))
    spec = program.evolve_specs(0, policy, 1.0)[0]
    fleet.submit(spec, policy)
    (done,) = fleet.mail.waiting
    queries = tuple(program.by_hash[item] for item in spec.queries_Q)
    task = GradeTask(spec.key, done.rollout, queries, 3, "question", Rule(), 0)
    return task, AdoptTask(spec), done


def graded(store: Store, program: RunSpec, task: GradeTask, graders: FakeGraders) -> ShardGraded:
    found = Stages(TaskContext(store, program), graders).run(StageWork(task))
    assert isinstance(found, ShardGraded)
    return found


def test_answers_that_cannot_be_graded_name_their_query_and_cost_no_other(
    store: Store, program: RunSpec
) -> None:
    task, _, _ = rollouts(store, program)
    answer = graded(store, program, task, FakeGraders(refused="the gold is no number")).answer
    assert isinstance(answer, GradeDone)
    (bad,) = answer.bad
    assert bad.reason == "the gold is no number"
    rows = read_rows(store, answer.grades, Grade)
    assert {row.query for row in rows} == {q.content_hash for q in task.queries_Q} - {bad.query}
    assert answer.coverage.queries == len(task.queries_Q) - 1


def test_a_rollout_that_is_incomplete_or_gone_is_lost_and_not_graded(
    store: Store, program: RunSpec
) -> None:
    task, _, _ = rollouts(store, program)
    lost = graded(store, program, replace(task, samples=4), FakeGraders()).answer
    assert isinstance(lost, TaskLost)
    assert "2 samples are missing" in lost.reason
    gone = replace(task, rollout=f"shards/rollout/{'0' * 64}.parquet")
    lost = graded(store, program, gone, FakeGraders()).answer
    assert isinstance(lost, TaskLost)
    assert lost.path == gone.rollout


def test_answers_without_a_gold_answer_are_equal_where_the_grader_says_so(
    store: Store, program: RunSpec
) -> None:
    """By the real grader, in its processes: three ways to write a half win against two of "2"."""
    task, _, _ = rollouts(store, program)
    query = replace(task.queries_Q[0], unlabelled=True)
    (row, *_) = [one for one in read_rows(store, task.rollout, Rollout)
                 if one.query == query.content_hash]  # fmt: skip
    answers = ["2", "1/2", "0.5", "2", "50 %", "apples", "9^9^9^9^9"]
    rows = [
        replace(row, sample_index=i, text=f"So.\n\n# Answer\n\n{answer}", finish="stop")
        for i, answer in enumerate(answers)
    ]
    path = put_content(store, "rollout", "key", to_parquet(rows, Rollout), "parquet")
    asked = replace(task, rollout=path, queries_Q=(query,), samples=len(rows),
                    vote=Voting("majority", 0.3))  # fmt: skip
    with closing(GradePool(1, 2.0)) as graders:
        found = Stages(TaskContext(store, program), graders).run(StageWork(asked))
    assert isinstance(found, ShardGraded)
    assert isinstance(found.answer, GradeDone)
    classes = read_rows(store, found.answer.classes, AnswerClass)
    assert [one.equals for one in classes] == [0, 1, 1, 0, 1, None, None]
    (label,) = found.answer.votes.values()
    assert (label["answer"], label["sample"], label["taken"]) == ("1/2", 1, True)
    assert label["share"] == pytest.approx(3 / 7)
    selected = read_rows(store, str(found.answer.selected), Selected)
    assert [one.sample_index for one in selected] == [1, 2, 4]
    assert found.answer.coverage.correct == 3


class InThisProcess:
    """Where the pool stands: work is done when it is asked for."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages
        self.works: list[StageWork] = []

    def submit(self, work: StageWork) -> None:
        self.works.append(work)

    def poll(self, timeout_s: float = 0.0) -> list[Result]:
        works, self.works = self.works, []
        return [Result(work.key, self.stages.run(work), None, 1, 1.0, "w") for work in works]


def test_each_half_gets_its_own_answers_and_failed_comparisons_are_named(
    store: Store, program: RunSpec
) -> None:
    """Grading and adopting a shard have one key."""
    task, adopt, done = rollouts(store, program)
    assert task.key == adopt.key
    said: list[str] = []
    context = TaskContext(store, program)
    pool = InThisProcess(Stages(context, FakeGraders(not_compared="3 cm against 3 s")))
    stages = PoolStages(pool, said.append)
    stages.submit(adopt)
    stages.grader.submit(task)
    assert stages.poll() == [
        TaskDone(task.key, ShardDone(done.key, done.rollout, done.rows, done.tokens, 0.0))
    ]
    (answer,) = stages.grader.poll()
    assert isinstance(answer, GradeDone)
    assert (list(stages.poll()), list(stages.grader.poll())) == ([], [])
    (line,) = said
    assert line.startswith("unparsed, comparison 1 of this run that failed: train-")
    assert line.endswith(": 3 cm against 3 s")


# --- in its actor --------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeadlyTask(StageTask):
    """Kills the process that it is done in `times` times, or raises; then it is done.

    log: a file that counts.
    """

    name: str
    log: str
    times: int = 0
    error: str = ""

    @property
    def key(self) -> str:
        return self.name

    def run(self, context: TaskContext) -> int:
        with Path(self.log).open("a+") as log:
            log.write(f"{self.key}\n")
            log.flush()
            log.seek(0)
            done = log.read().count(f"{self.key}\n")
        if done <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        if self.error:
            raise RunStopped(self.error)
        return os.getpid()


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    init_ray({"num_cpus": 1, "include_dashboard": False, "log_to_driver": False})
    yield
    ray.shutdown()


class Running:
    """The real worker over a store, with everything it said."""

    def __init__(self, program: RunSpec, store: Store, folder: Path) -> None:
        self.said: list[str] = []
        self.pool = stage_pool(program, store, self.said.append)
        self.pool.settings = replace(self.pool.settings, backoff_s=0.1, attempts=3)
        self.stages = PoolStages(self.pool, self.said.append)
        self.log = str(folder / "log")

    def wait(self, count: int) -> list[Any]:
        """So many answers of tasks and of grading."""
        found: list[Any] = []
        end = time.monotonic() + 280.0
        while len(found) < count:
            assert time.monotonic() < end, self.said
            found += [*self.stages.poll(), *self.stages.grader.poll()]
            time.sleep(0.02)
        return found


@pytest.fixture
def running(_cluster: None, program: RunSpec, store: Store, tmp_path: Path) -> Iterator[Running]:
    made = Running(program, store, tmp_path)
    yield made
    made.pool.close()


def test_a_worker_grades_with_the_real_grader_in_another_process(
    running: Running, store: Store, program: RunSpec
) -> None:
    task, adopt, done = rollouts(store, program)
    running.stages.grader.submit(task)
    running.stages.submit(adopt)
    running.stages.submit(DeadlyTask("where", running.log))
    answers = {type(answer): answer for answer in running.wait(3)}
    answer = answers[GradeDone]
    assert (answer.rollout, answer.coverage.samples) == (done.rollout, done.rows)
    assert store.exists(answer.selected)
    graders = processes("actors.grading.worker", of=os.getpid())
    assert len(graders) == 1
    running.pool.close()
    _, alive = psutil.wait_procs(graders, timeout=120)
    assert not alive


def test_a_worker_that_dies_is_replaced_and_its_work_is_done_again(running: Running) -> None:
    deadly, other = DeadlyTask("a", running.log, times=1), DeadlyTask("b", running.log)
    running.stages.submit(deadly)
    running.stages.submit(other)
    pids = {answer.key: answer.value for answer in running.wait(2)}
    assert set(pids) == {"a", "b"}
    assert os.getpid() not in pids.values()
    assert len(running.said) == 1


def test_what_kills_every_worker_and_what_a_person_must_mend_stop_the_run(
    running: Running,
) -> None:
    running.stages.submit(DeadlyTask("user", running.log, error="too few responses to judge by"))
    with pytest.raises(RunStopped, match="too few responses to judge by"):
        running.wait(1)
    running.stages.submit(DeadlyTask("poison", running.log, times=9))
    with pytest.raises(PoolBroken, match=r"was lost 3 times .* \(at DeadlyTask poison\)"):
        running.wait(1)
