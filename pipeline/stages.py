"""What is done with one shard between generation and learning: verify, grade, select, measure.

Everything here reads and writes immutable objects and is idempotent: doing it twice stores the same
bytes under the same path. An object that is corrupt or gone is named (`Lost`), never worked around.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import CorruptObject, StoreError, StoreMissing
from pipeline.measure import measure_greedy, measure_sampled
from pipeline.plan import PromptKind, ShardSpec, grade_key, select_key
from pipeline.prm_labels import MOST_STEPS
from pipeline.prompts import refers_to_gold
from pipeline.query import Query
from pipeline.records import Grade, RecordError, Rollout, Selected, from_parquet, to_parquet
from pipeline.responses import finished_steps
from pipeline.roles import BadQuery, GradeDone, GradeTask, ObjectLost, ShardDone
from pipeline.select import candidates, choice_report, coverage, select
from pipeline.state import GREEDY
from pipeline.store import Store, get_verified, put_content

ROLLOUTS, GRADES, SELECTED = "rollout", "grade", "select"


class Lost(StoreError):
    """An object that had to be read is corrupt or gone."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Graded(Protocol):
    """What grading one item gives."""

    @property
    def outcome(self) -> str: ...
    @property
    def extracted(self) -> str | None: ...


@dataclass(frozen=True)
class Ungraded:
    """An answer that no grader can grade, and why: a fault of its query's, never an outcome."""

    reason: str


GradeMany = Callable[[list[tuple[str, Query]]], Sequence[Graded | Ungraded]]


def read_rows(store: Store, path: str, kind: type[Any]) -> list[Any]:
    """The rows of a content-addressed object, its hash and schema checked.

    Raises:
        Lost: it is corrupt (and now quarantined) or gone.
    """
    try:
        return from_parquet(get_verified(store, path), kind)
    except (CorruptObject, StoreMissing) as error:
        raise Lost(path, str(error)) from error


def group_problem(
    rows: Sequence[Rollout], queries_Q: Sequence[str], samples: int | Mapping[str, int]
) -> str | None:
    """Why these rows are not the whole groups of these queries; None when they are.

    samples: rows of each query, or of each by query.
    """
    counts = {q: samples if isinstance(samples, int) else samples[q] for q in queries_Q}
    want = {(query, index) for query, count in counts.items() for index in range(count)}
    have = [(row.query, row.sample_index) for row in rows]
    if len(have) != len(set(have)):
        return "it holds a sample twice"
    missing, strange = want - set(have), set(have) - want
    if missing or strange:
        return f"{len(missing)} samples are missing and {len(strange)} belong elsewhere"
    return None


def adoptable(store: Store, spec: ShardSpec) -> ShardDone | None:
    """A complete rollout of this very shard that is in the store and in no ledger of this run.

    Another run made it, or a worker whose driver died before the event. The smallest hash wins; one
    that is damaged, incomplete or of another version is passed over.
    """
    for path in store.list(f"shards/{ROLLOUTS}/{spec.key}"):
        try:
            rows = read_rows(store, path, Rollout)
        except (Lost, RecordError):
            continue
        counts = {query: spec.samples_of(query) for query in spec.queries_Q}
        if group_problem(rows, spec.queries_Q, counts) is None:
            tokens = sum(len(row.token_ids) for row in rows)
            return ShardDone(spec.key, path, len(rows), tokens, 0.0)
    return None


def finish_shard(
    store: Store,
    task: GradeTask,
    grade_many: GradeMany,
    grader: str,
    clock: Callable[[], float] = time.monotonic,
) -> GradeDone | ObjectLost:
    """Grade a rollout shard and, with a rule, select from it; both results are stored.

    A query of which some answer cannot be graded is bad: its whole group is left out and named.
    """
    started = clock()
    try:
        rows: list[Rollout] = read_rows(store, task.rollout, Rollout)
    except Lost as lost:
        return ObjectLost(task.key, lost.path, lost.reason)
    by_hash = {query.content_hash: query for query in task.queries_Q}
    problem = group_problem(rows, list(by_hash), task.samples)
    if problem is not None:
        return ObjectLost(task.key, task.rollout, problem)
    results = grade_many([(row.text, by_hash[row.query]) for row in rows])
    bad = _ungraded(rows, results)
    rows, graded = _graded(rows, results, bad)
    key = grade_key(task.rollout, task.queries_Q, grader)
    grades = put_content(store, GRADES, key, to_parquet(graded, Grade), "parquet")
    outcomes = outcomes_of(task.prompt, rows, graded)
    kept = [] if task.rule is None else select(rows, outcomes, None, task.rule, seed=task.seed)
    selected, choice = None, {}
    if task.rule is not None:
        key = select_key(task.rollout, grades, task.rule.identity, task.seed, task.prompt)
        selected = store_selected(store, key, kept, rollout=task.rollout, prompt=task.prompt)
        choice = _choice(candidates(rows, outcomes), kept)
    counted, seconds = coverage(rows, outcomes, kept), clock() - started
    return GradeDone(task.key, task.rollout, grades, selected, counted, seconds, bad, choice)


def _choice(chosen_from: Sequence[Rollout], kept: Sequence[Rollout]) -> dict[str, Any]:
    """Steps are counted as a process reward model would: merged where there are too many."""
    steps = {
        (row.query, row.sample_index): min(MOST_STEPS, finished_steps(row.text))
        for row in chosen_from
    }
    return choice_report(chosen_from, kept, steps)


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


def outcomes_of(prompt: PromptKind, rows: Sequence[Rollout], grades: Sequence[Grade]) -> list[str]:
    """For selection: a right warm-up chain that speaks of the answer it was given is `leaning`."""
    return [
        "leaning"
        if prompt == "warmup" and grade.outcome == "correct" and refers_to_gold(row.text)
        else grade.outcome
        for row, grade in zip(rows, grades, strict=True)
    ]


def store_selected(
    store: Store,
    key: str,
    kept: Sequence[Rollout],
    *,
    rollout: str,
    prompt: PromptKind,
    rewards: Mapping[tuple[str, int], float] | None = None,
) -> str:
    """Put a selection into the store; its path.

    rewards: by query and sample index what rows were selected by; None: by being right.
    """
    rows = [
        Selected(
            query=row.query,
            query_id=row.query_id,
            sample_index=row.sample_index,
            rollout_shard=rollout,
            token_ids=row.token_ids,
            logprobs=row.logprobs,
            # A warm-up chain is trained on under another prompt than it was sampled from.
            prompt_sha256=row.prompt_sha256 if prompt == "question" else "",
            reward=1.0 if rewards is None else rewards[row.query, row.sample_index],
        )
        for row in kept
    ]
    return put_content(store, SELECTED, key, to_parquet(rows, Selected), "parquet")


def measure(
    store: Store,
    paths: Sequence[str],
    queries_Q: Sequence[Query],
    *,
    mode: str,
    counts: Mapping[str, int],
    samples: int,
) -> dict[str, Any]:
    """The numbers of an evaluation from its grades.

    Raises:
        Lost: one of them is corrupt or gone.
    """
    rows: list[Grade] = []
    for path in paths:
        rows += read_rows(store, path, Grade)
    if mode == GREEDY:
        return measure_greedy(queries_Q, rows, counts)
    return measure_sampled(queries_Q, rows, counts, samples)
