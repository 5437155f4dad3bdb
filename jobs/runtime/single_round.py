"""The stages of the loop, each once and by hand, on a few queries: generate, grade, score, train.

Every answer of a role comes back here as a value, or as a `StageFailed` that names the stage. No
ledger is written; what is stored are the objects that the roles themselves store.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.generation.fleet import BadQuery, ShardDone
from pipeline.generation.shards import SamplingParams, ShardSpec
from pipeline.prompts import PromptKind
from pipeline.query import Query
from pipeline.records import Grade, Rollout, Score
from pipeline.refs import PolicyRef
from pipeline.run.shard_answers import GradeDone, ScoreDone
from pipeline.run.spec import RunSpec
from pipeline.selection.coverage import Coverage
from pipeline.selection.rules import Rule
from pipeline.stages.grade import GradeTask
from pipeline.stages.score import ScoreTask, Scoring
from pipeline.stages.select import store_selected
from pipeline.stages.workers import Workers
from pipeline.storage.artifacts import read_rows
from pipeline.storage.store import Store
from pipeline.training.job import LearnDone, LearnJob, LearnProgress, LearnSaved

POLL_S = 0.1

Answer = TypeVar("Answer")


class StageFailed(Exception):
    """A stage gave no result; the message says which and why."""


def answer(world: Workers, role: Any, kind: type[Answer], stage: str, *asked: Any) -> Answer:
    """Submit to a role what `asked` is, and wait for its answer.

    Raises:
        StageFailed: naming the stage, when the answer is of another kind than this.
        RunStopped: no answer can come any more (`Workers.check`).
    """
    return answers(world, role, kind, stage, [asked])[0]


def answers(
    world: Workers, role: Any, kind: type[Answer], stage: str, asked: Sequence[tuple[Any, ...]]
) -> list[Answer]:
    """Submit all of `asked` to a role, and wait for its answers, which come in any order.

    Raises: as `answer`.
    """
    for one in asked:
        role.submit(*one)
    found: list[Answer] = []
    while len(found) < len(asked):
        for given in role.poll():
            if isinstance(given, kind):
                found.append(given)
            elif not isinstance(given, LearnProgress | LearnSaved):
                raise StageFailed(f"{stage}: {given.reason}")
        if len(found) < len(asked):
            world.check()
            time.sleep(POLL_S)
    return found


@dataclass(frozen=True)
class Sampled:
    """A shard that was generated and graded, and where both lie. rows, grades: in the order of the
    shard."""

    spec: ShardSpec
    rollout: str
    graded: str
    rows: list[Rollout]
    grades: list[Grade]
    coverage: Coverage
    bad: tuple[BadQuery, ...]
    shapes: dict[str, int]


@dataclass
class OneRound:
    """A few queries of a program, and the roles that they are sent through."""

    program: RunSpec
    store: Store
    world: Workers

    @property
    def queries(self) -> tuple[Query, ...]:
        """Those of the pool."""
        return self.program.splits[self.program.config.data.train]

    def sample(self, prompt: PromptKind, policy: PolicyRef, sampling: SamplingParams) -> Sampled:
        """Responses of a policy to all the queries, graded.

        Raises:
            StageFailed: naming generation or grading.
        """
        (spec,) = self.program.shard_specs(
            "by hand",
            self.queries,
            policy,
            sampling,
            shard_queries=len(self.queries),
            prompt=prompt,
        )
        done = answer(self.world, self.world.fleet, ShardDone, "generation", spec, policy)
        bad = {one.query for one in done.bad}
        rule = Rule(version=self.program.config.run.rules)
        task = GradeTask.of(self.program, spec, done.rollout, bad, rule=rule)
        graded = answer(self.world, self.world.grader, GradeDone, "grading", task)
        return Sampled(
            spec,
            done.rollout,
            graded.grades,
            read_rows(self.store, done.rollout, Rollout),
            read_rows(self.store, graded.grades, Grade),
            graded.coverage,
            (*done.bad, *graded.bad),
            graded.shapes,
        )

    def score(self, sampled: Sampled, prm: PolicyRef) -> tuple[list[Score], dict[str, int]]:
        """What a process reward model says of every distinct response, and how many it cannot read,
        by reason.

        Raises:
            StageFailed: naming scoring.
        """
        scoring = Scoring(prm, "all", self.program.config.prm.aggregate)
        stored = sampled.rollout, sampled.graded
        task = ScoreTask.of(self.program, sampled.spec, stored, (), scoring=scoring, rule=None)
        done = answer(self.world, self.world.scorer, ScoreDone, "scoring", task)
        return read_rows(self.store, done.scores, Score), done.excluded

    def train(self, rows: Iterable[Rollout], sampled: Sampled, policy: PolicyRef) -> LearnDone:
        """One optimizer step on these responses of a sampled shard, whatever their answers, after
        the engine's log-probabilities were compared with the learner's.

        Raises:
            StageFailed: they differ too much, or the ranks do not get that far.
        """
        config = self.program.config
        data = store_selected(
            self.store, "by-hand", list(rows), rollout=sampled.rollout, prompt="question"
        )
        job = LearnJob(
            name="by hand",
            start=None,
            policy=policy,
            data=(data,),
            seed=config.run.seed,
            epochs=None,
            max_steps=1,
            learning_rate=config.learn.learning_rate,
            check_logprobs=True,
            temperature=config.generate.temperature,
            top_p=config.generate.top_p,
        )
        return answer(self.world, self.world.learner, LearnDone, "learning", job, None)
