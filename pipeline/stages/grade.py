"""What is done with one shard between generation and learning: verify, grade, select, measure.

Everything here reads and writes immutable objects and is idempotent: doing it twice stores the same
bytes under the same path. An object that is corrupt or gone is named (`ArtifactLost`), never worked
around.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.answer_shapes import OURS, Shape
from pipeline.errors import ArtifactLost
from pipeline.generation.adoption import group_problem
from pipeline.generation.fleet import BadQuery
from pipeline.generation.shards import ShardSpec
from pipeline.hashing import key_of
from pipeline.prompts import PromptKind
from pipeline.query import Query
from pipeline.records import AnswerClass, Grade, Rollout
from pipeline.run.shard_answers import GradeDone
from pipeline.run.spec import RunSpec
from pipeline.selection.coverage import coverage
from pipeline.selection.pseudo_labels import Voting
from pipeline.selection.rules import Rule
from pipeline.stages.pseudo_label import (
    classify,
    read_answers,
    store_classes,
    truth_of,
    voted,
)
from pipeline.stages.select import choice_of, choose, outcomes_of, select_key, store_selected
from pipeline.storage.artifacts import GRADES, put_content, read_rows
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store


class Graded(Protocol):
    """What grading one item gives."""

    @property
    def outcome(self) -> str: ...
    @property
    def extracted(self) -> str | None: ...
    @property
    def shape(self) -> str | None: ...


@dataclass(frozen=True)
class Ungraded:
    """An answer that no grader can grade, and why: a fault of its query's, never an outcome."""

    reason: str


GradeMany = Callable[[list[tuple[str, Query]]], Sequence[Graded | Ungraded]]


def finish_shard(
    store: Store,
    task: GradeTask,
    grade_many: GradeMany,
    grader: str,
    clock: Callable[[], float] = time.monotonic,
) -> GradeDone | TaskLost:
    """Grade a rollout shard and, with a rule, select from it; both results are stored.

    A query of which some answer cannot be graded is bad: its whole group is left out and named.
    """
    started = clock()
    try:
        rows: list[Rollout] = read_rows(store, task.rollout, Rollout)
    except ArtifactLost as lost:
        return TaskLost(task.key, lost.path, lost.reason)
    asked = list({query.content_hash: None for query in task.queries_Q})
    problem = group_problem(rows, asked, task.samples)
    if problem is not None:
        return TaskLost(task.key, task.rollout, problem)
    finish = _finish_labelled if task.vote is None else _finish_unlabelled
    return replace(finish(store, task, rows, grade_many, grader), seconds=clock() - started)


def _finish_labelled(
    store: Store, task: GradeTask, rows: list[Rollout], grade_many: GradeMany, grader: str
) -> GradeDone:
    """Of a shard of labelled queries: the grades and, with a rule, what is selected by them."""
    by_hash = {query.content_hash: query for query in task.queries_Q}
    results = grade_many([(row.text, by_hash[row.query]) for row in rows])
    bad = _ungraded(rows, results)
    rows, graded = _graded(rows, results, bad)
    key = grade_key(task.rollout, task.queries_Q, grader)
    grades = put_content(store, GRADES, key, to_parquet(graded, Grade), "parquet")
    outcomes = outcomes_of(task.prompt, rows, graded, task.rule)
    selected, choice, kept = None, {}, []
    if task.rule is not None:
        made = choose(rows, outcomes, None, task.rule, task.seed)
        kept = made.kept
        key = select_key(task.rollout, grades, task.rule.identity, task.seed, task.prompt)
        selected = store_selected(
            store, key, kept, rollout=task.rollout, prompt=task.prompt, rewards=made.rewards
        )
        choice = choice_of(made.chosen_from, kept)
    shapes = shape_counts(one.shape for one in results if not isinstance(one, Ungraded))
    counted = coverage(rows, outcomes, kept)
    return GradeDone(task.key, task.rollout, grades, selected, counted, 0.0, bad, choice, shapes)


def _finish_unlabelled(
    store: Store, task: GradeTask, rows: list[Rollout], grade_many: GradeMany, grader: str
) -> GradeDone:
    """Of a shard of unlabelled queries: the classes of equal answers and, with a rule, the votes
    and what is selected by them."""
    done, grades, classes = _classified(store, task, rows, grade_many, grader)
    if task.rule is None:  # a process reward model votes, once it has scored
        return done
    assert task.vote is not None
    labels, outcomes = voted(rows, grades, classes, {}, task.vote)
    made = choose(rows, outcomes, None, task.rule, task.seed)
    read = f"{done.grades}+{done.classes}"
    rule = task.rule.identity | {"vote": task.vote.identity}
    key = select_key(task.rollout, read, rule, task.seed, task.prompt)
    selected = store_selected(
        store, key, made.kept, rollout=task.rollout, prompt=task.prompt, rewards=made.rewards
    )
    return replace(
        done,
        selected=selected,
        coverage=coverage(rows, outcomes, made.kept),
        choice=choice_of(made.chosen_from, made.kept),
        votes={query: label.to_dict() for query, label in labels.items()},
    )


def _classified(
    store: Store, task: GradeTask, rows: list[Rollout], grade_many: GradeMany, grader: str
) -> tuple[GradeDone, list[Grade], list[AnswerClass]]:
    """Grades and classes of equal answers of unlabelled queries, stored; nothing is selected."""
    by_hash = {query.content_hash: query for query in task.queries_Q}

    def compare(items: list[tuple[str, Query]]) -> list[Graded | None]:
        results = grade_many(items) if items else []
        return [None if isinstance(result, Ungraded) else result for result in results]

    grades, stated = read_answers(rows, by_hash, task.shapes, compare)
    classes = classify(rows, grades, by_hash, compare)
    key = grade_key(task.rollout, without_hidden(task.queries_Q), grader)
    done = GradeDone(
        key=task.key,
        rollout=task.rollout,
        grades=put_content(store, GRADES, key, to_parquet(grades, Grade), "parquet"),
        selected=None,
        coverage=coverage(rows, [grade.outcome for grade in grades], []),
        seconds=0.0,
        shapes=shape_counts(None if one is None else one.shape for one in stated),
        classes=store_classes(store, task.rollout, classes, grader),
        truth=truth_of(rows, classes, by_hash, compare),
    )
    return done, grades, classes


def shape_counts(shapes: Iterable[str | None]) -> dict[str, int]:
    """How many answers were stated in another shape than ours, by shape."""
    return dict(sorted(Counter(item for item in shapes if item not in (None, OURS)).items()))


def _ungraded(
    rows: Sequence[Rollout], results: Sequence[Graded | Ungraded]
) -> tuple[BadQuery, ...]:
    """The queries with an answer that could not be graded, each with its first reason."""
    reasons: dict[str, str] = {}
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, Ungraded):
            reasons.setdefault(row.query, result.reason)
    return tuple(BadQuery(query, reason) for query, reason in reasons.items())


def _graded(
    rows: Sequence[Rollout], results: Sequence[Graded | Ungraded], bad: Sequence[BadQuery]
) -> tuple[list[Rollout], list[Grade]]:
    """The rows of the other queries, and their grades."""
    left_out = {one.query for one in bad}
    kept = [
        (row, Grade(row.query, row.sample_index, result.outcome, result.extracted))
        for row, result in zip(rows, results, strict=True)
        if row.query not in left_out and not isinstance(result, Ungraded)
    ]
    return [row for row, _ in kept], [grade for _, grade in kept]


def grade_key(rollout: str, queries_Q: Sequence[Query], grader: str) -> str:
    """Identity of the grades of one rollout object: its path (which holds the hash of its bytes),
    the gold answers and the grader's version."""
    gold_Q = [[query.content_hash, query.answer, query.answer_type] for query in queries_Q]
    return key_of("grade", {"rollout": rollout, "gold": gold_Q, "grader": grader})


def without_hidden(queries_Q: Sequence[Query]) -> list[Query]:
    """The queries, those that are unlabelled without the answer that is hidden."""
    return [replace(one, answer=None) if one.unlabelled else one for one in queries_Q]


@dataclass(frozen=True)
class GradeTask:
    """Grade one rollout shard and, with a rule, select from it.

    queries_Q: the shard's queries without its bad ones; samples: rows of each (of completions, by
    query). seed: the run's. vote: how the samples of unlabelled queries vote; None: its queries are
    labelled. shapes: besides ours, in which unlabelled queries' answers are read.
    """

    key: str
    rollout: str
    queries_Q: tuple[Query, ...]
    samples: int | Mapping[str, int]
    prompt: PromptKind
    rule: Rule | None
    seed: int
    vote: Voting | None = None
    shapes: tuple[Shape, ...] = ()

    @classmethod
    def of(
        cls,
        run: RunSpec,
        spec: ShardSpec,
        rollout: str,
        bad: Collection[str],
        *,
        rule: Rule | None,
        vote: Voting | None = None,
    ) -> GradeTask:
        """Of a shard of a run whose rollouts lie at `rollout`. bad: queries without rows."""
        return cls(
            key=spec.key,
            rollout=rollout,
            queries_Q=tuple(run.by_hash[item] for item in spec.queries_Q if item not in bad),
            samples={item: spec.samples_of(item) for item in spec.queries_Q},
            prompt=spec.prompt,
            rule=rule,
            seed=run.config.run.seed,
            vote=vote,
            shapes=() if vote is None else run.config.prompt.shapes,
        )


@dataclass(frozen=True)
class TaskLost:
    """The answer to a piece of work that could not read what it is about: `path` is corrupt or gone
    (an `ArtifactLost`, on its way through a worker's mail)."""

    key: str
    path: str
    reason: str


class Grader(Protocol):
    """Grading processes."""

    def submit(self, task: GradeTask) -> None:
        """Grade this shard. Submitting a key that is under way does nothing."""

    def poll(self) -> Sequence[GradeDone | TaskLost]:
        """What has ended since the last call."""


def graded_rows(store: Store, rollout: str, grades: str) -> tuple[list[Rollout], list[Grade]]:
    """The rows of a rollout shard that were graded, with their grades.

    Raises:
        ArtifactLost: one of the objects is corrupt or gone.
    """
    return with_grades(read_rows(store, rollout, Rollout), read_rows(store, grades, Grade))


def with_grades(
    rows: Sequence[Rollout], grades: Sequence[Grade]
) -> tuple[list[Rollout], list[Grade]]:
    """The rows that have a grade, and these grades, in the order of the rows."""
    graded = {(grade.query, grade.sample_index): grade for grade in grades}
    kept = [row for row in rows if (row.query, row.sample_index) in graded]
    return kept, [graded[row.query, row.sample_index] for row in kept]
