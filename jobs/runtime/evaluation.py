"""A split through generation, grading and scoring by hand, for what a finished run is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.runtime.single_round import answer
from pipeline.errors import BadData
from pipeline.generation.adoption import adoptable
from pipeline.generation.fleet import ShardDone
from pipeline.generation.shards import ShardSpec
from pipeline.metrics.evaluation import measure_greedy, measure_sampled
from pipeline.query import Query
from pipeline.records import Grade, Rollout, Score
from pipeline.refs import PolicyRef
from pipeline.reports.voting import Group
from pipeline.run.shard_answers import GradeDone, ScoreDone
from pipeline.run.spec import RunSpec
from pipeline.selection.answer_classes import answer_classes
from pipeline.selection.coverage import Coverage
from pipeline.stages.grade import GradeTask, graded_rows
from pipeline.stages.score import ScoreTask, Scoring, rewards_by_sample
from pipeline.stages.workers import Workers
from pipeline.storage.artifacts import read_rows
from pipeline.storage.store import Store


@dataclass(frozen=True)
class GradedShard:
    """A shard that was generated and graded, and where both lie."""

    spec: ShardSpec
    rollout: str
    grades: str
    coverage: Coverage


@dataclass(frozen=True)
class Through:
    """Sends the shards of a split through generation, grading and scoring, one stage at a time."""

    program: RunSpec
    store: Store
    world: Workers
    scoring: Scoring | None

    def measured(
        self, policy: PolicyRef, split: str, k: int, temperature: float
    ) -> dict[str, dict[str, Any] | None]:
        """Greedy accuracy of a split, and Pass@K where K is not 0, as a run evaluates them.

        Raises:
            StageFailed: naming the stage. BadData: not one query of the split could be asked.
        """
        greedy = self._graded(policy, split, 1, 0.0)
        sampled = self._graded(policy, split, k, temperature) if k else []
        return {
            "greedy": self._figures(greedy, split),
            "sampled": self._figures(sampled, split, k) if k else None,
        }

    def _figures(
        self, shards: Sequence[GradedShard], split: str, k: int | None = None
    ) -> dict[str, Any]:
        """Of greedy answers, or of K samples."""
        counts = sum((shard.coverage for shard in shards), Coverage())
        if not counts.samples:
            raise BadData(f"not one query of {split} could be asked")
        grades = [row for shard in shards for row in read_rows(self.store, shard.grades, Grade)]
        queries = self.program.splits[split]
        if k is None:
            return measure_greedy(queries, grades, counts.to_dict())
        truncated = {
            (row.query, row.sample_index)
            for shard in shards
            for row in read_rows(self.store, shard.rollout, Rollout)
            if row.finish != "stop"
        }
        return measure_sampled(queries, grades, counts.to_dict(), k, truncated)

    def groups(self, policy: PolicyRef, split: str, k: int, temperature: float) -> list[Group]:
        """The samples of each question of a split, with greedy's outcome."""
        greedy = self._graded(policy, split, 1, 0.0)
        right = {
            grade.query: grade.outcome == "correct"
            for shard in greedy
            for grade in graded_rows(self.store, shard.rollout, shard.grades)[1]
        }
        found: list[Group] = []
        for shard in self._graded(policy, split, k, temperature):
            found += self._scored(shard, right)
        return found

    def _graded(
        self, policy: PolicyRef, split: str, k: int, temperature: float
    ) -> list[GradedShard]:
        specs = self.program.shard_specs(
            f"evaluate/{split}",
            self.program.splits[split],
            policy,
            self.program.sampling(k, temperature),
            shard_queries=self.program.config.evaluate.shard_queries,
        )
        return [self._one(spec, policy) for spec in specs]

    def _one(self, spec: ShardSpec, policy: PolicyRef) -> GradedShard:
        """Rollouts and grades of a shard; what is in the store already is not made again."""
        done = adoptable(self.store, spec)
        if done is None:
            done = answer(self.world, self.world.fleet, ShardDone, "generation", spec, policy)
        bad = {one.query for one in done.bad}
        task = GradeTask.of(self.program, spec, done.rollout, bad, rule=None)
        graded = answer(self.world, self.world.grader, GradeDone, "grading", task)
        return GradedShard(spec, done.rollout, graded.grades, graded.coverage)

    def _scored(self, shard: GradedShard, greedy: dict[str, bool]) -> list[Group]:
        spec, rollout, grades = shard.spec, shard.rollout, shard.grades
        assert self.scoring is not None
        task = ScoreTask.of(
            self.program, spec, (rollout, grades), (), scoring=self.scoring, rule=None
        )
        done = answer(self.world, self.world.scorer, ScoreDone, "scoring", task)
        rows, graded = graded_rows(self.store, rollout, grades)
        scores: list[Score] = read_rows(self.store, done.scores, Score)
        rewards = rewards_by_sample(rows, scores)
        text_of = {(row.query, row.sample_index): row.text for row in rows}
        steps = {(s.query, text_of[s.query, s.sample_index]): len(s.step_ends) for s in scores}
        made, by_hash = [], self.program.by_hash
        for query in dict.fromkeys(row.query for row in rows if row.query in greedy):
            mine = [pair for pair in zip(rows, graded, strict=True) if pair[0].query == query]
            made.append(
                Group(
                    query=by_hash[query],
                    greedy=greedy[query],
                    correct_K=tuple(
                        grade.outcome == "correct" and row.finish == "stop" for row, grade in mine
                    ),
                    texts_K=tuple(row.text for row, _ in mine),
                    classes_K=tuple(_classes([grade for _, grade in mine], by_hash[query])),
                    rewards_K=tuple(rewards[row.query, row.sample_index] for row, _ in mine),
                    steps_K=tuple(steps.get((row.query, row.text), 0) for row, _ in mine),
                    tokens_K=tuple(len(row.token_ids) for row, _ in mine),
                )
            )
        return made


def _classes(grades_K: Sequence[Grade], query: Query) -> list[int | None]:
    """Which answers vote together; what the grader had no time for does not vote."""
    answers_K = [None if one.outcome == "timeout" else one.extracted for one in grades_K]
    return answer_classes(answers_K, query)
