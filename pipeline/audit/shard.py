"""One shard under audit: what was sampled, graded, scored and selected belong together.

Rows are compared one by one, and keys, choices and counts are derived again from what is stored.

Axes: S steps of a response.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StoreError
from pipeline.generation.adoption import group_problem
from pipeline.generation.shards import SamplePart, ShardSpec
from pipeline.prm.labels import Decode
from pipeline.records import (
    AnswerClass,
    Grade,
    QueryRow,
    Rollout,
    Score,
    Selected,
    StepValues,
)
from pipeline.responses import MOST_STEPS, merged, step_ends
from pipeline.run.events.sampling import ShardAccepted, ShardGraded, ShardScored
from pipeline.run.spec import RunSpec
from pipeline.selection.coverage import coverage
from pipeline.selection.pseudo_labels import ANSWERED, Voting
from pipeline.selection.rewards import reward_p
from pipeline.selection.rules import Rule
from pipeline.stages.grade import grade_key, with_grades, without_hidden
from pipeline.stages.pseudo_label import classes_key, voted
from pipeline.stages.score import (
    ScoreTask,
    Scoring,
    rewards_by_sample,
    rows_to_score,
    score_key,
    scored_how,
    scores_problem,
)
from pipeline.stages.select import choose, outcomes_of, select_key
from pipeline.storage.artifacts import inspect_rows
from pipeline.storage.parquet import Record
from pipeline.storage.store import Store

RECORDS_OF: Mapping[str, type[Record]] = {
    "queries": QueryRow,
    "rollout": Rollout,
    "grade": Grade,
    "classes": AnswerClass,
    "labels": StepValues,
    "score": Score,
    "select": Selected,
}
Found = tuple[str, str]
"""A path and what is wrong with it."""


@dataclass(frozen=True)
class ShardFiles:
    """A shard's plan and the events about it.

    rule: what was to be selected by, by grades or (with scores) by scores; None: nothing is.
    scoring: what was to be scored; None with `scored`: it cannot be told any more. vote: how the
    samples of unlabelled queries were to vote.
    """

    spec: ShardSpec
    accepted: ShardAccepted
    graded: ShardGraded | None = None
    scored: ShardScored | None = None
    rule: Rule | None = None
    scoring: Scoring | None = None
    vote: Voting | None = None

    @property
    def selected(self) -> str | None:
        """What is trained on; where there are scores, it was selected by them."""
        chosen = self.scored or self.graded
        return None if chosen is None else chosen.selected

    @property
    def paths(self) -> list[str]:
        """Its objects: rollout, then grades, classes of equal answers, scores and selection where
        there are any."""
        grades = None if self.graded is None else self.graded.grades
        classes = None if self.graded is None else self.graded.classes
        scores = None if self.scored is None else self.scored.scores
        paths = [self.accepted.rollout, grades, classes, scores, self.selected]
        return [path for path in paths if path]


@dataclass(frozen=True)
class Judge:
    """What a run's shards are held against. decode: sampled tokens to text, where it is needed and
    can be had."""

    store: Store
    run_spec: RunSpec
    decode: Decode | None = None


def check_shard(judge: Judge, files: ShardFiles) -> list[Found]:
    """What is wrong with a shard; nothing, usually."""
    problems: list[Found] = []

    def rows(path: str, kind: type[Any]) -> list[Any] | None:
        try:
            return inspect_rows(judge.store, path, kind)
        except StoreError as error:
            problems.append((path, str(error)))
            return None

    rollouts = rows(files.accepted.rollout, Rollout)
    grades = None if files.graded is None else rows(files.graded.grades, Grade)
    classes = None if not _classes_of(files) else rows(_classes_of(files), AnswerClass)
    scores = None if files.scored is None else rows(files.scored.scores, Score)
    selected = rows(files.selected, Selected) if files.selected else None
    if rollouts is None:
        return problems
    problems += _rollouts(judge, files, rollouts)
    if grades is None:
        return problems
    problems += _grades(judge, files, rollouts, grades)
    if files.vote is not None and files.graded is not None:
        if classes is None or (files.scored is not None and scores is None):
            return problems or [(files.graded.grades, "no classes of its answers are told of")]
        problems += _classes(judge, files, rollouts, grades, classes)
    graded = _Graded.of(files, rollouts, grades, classes, scores)
    if scores is not None:
        problems += _scores(judge, files, graded, scores)
    if files.scored is None or scores is not None:
        wrong = list(_selected(files, graded, selected or ()))
        problems += wrong or _chosen(judge, files, graded, scores, selected)
    return problems


@dataclass(frozen=True)
class _Graded:
    """The rows of a shard that have grades; rows, grades and outcomes are parallel. votes: the
    pseudo-labels of unlabelled queries, as an event has them."""

    rows: list[Rollout]
    grades: list[Grade]
    outcomes: list[str]
    votes: dict[str, dict[str, Any]]

    @classmethod
    def of(
        cls,
        files: ShardFiles,
        rollouts: Sequence[Rollout],
        grades: Sequence[Grade],
        classes: Sequence[AnswerClass] | None,
        scores: Sequence[Score] | None,
    ) -> _Graded:
        rows, mine = with_grades(rollouts, grades)
        if files.vote is None or classes is None:
            return cls(rows, mine, outcomes_of(files.spec.prompt, rows, mine, files.rule), {})
        labels, outcomes = voted(
            rows, mine, classes, rewards_by_sample(rows, scores or ()), files.vote
        )
        return cls(rows, mine, outcomes, {name: one.to_dict() for name, one in labels.items()})


def _bad_of(event: ShardAccepted | ShardGraded) -> set[str]:
    return {item.query for item in event.bad}


# --- sampled and graded ----------------------------------------------------------------------


def _rollouts(judge: Judge, files: ShardFiles, rows: Sequence[Rollout]) -> Iterator[Found]:
    spec, event, path = files.spec, files.accepted, files.accepted.rollout
    if path.split("/")[2] != spec.key:
        yield path, f"it does not lie under its shard's key {spec.key}"
    asked = [query for query in spec.queries_Q if query not in _bad_of(event)]
    problem = group_problem(rows, asked, {query: spec.samples_of(query) for query in asked})
    if problem is not None:
        yield path, problem
        return
    if len(rows) != event.rows or sum(len(row.token_ids) for row in rows) != event.tokens:
        yield path, "its event counts other rows or tokens"
    parts = {query: spec.parts(query) for query in asked}
    for row in rows:
        wrong = _sampled_otherwise(judge, spec, parts[row.query], row)
        if wrong:
            yield path, f"sample {row.sample_index} of {row.query_id} {wrong}"
            return


def _sampled_otherwise(
    judge: Judge, spec: ShardSpec, parts: Sequence[SamplePart], row: Rollout
) -> str:
    part = parts[row.sample_index // len(parts[0].seeds)]
    seed = part.seeds[row.sample_index - part.first_index]
    asked = (spec.policy, spec.sampling.temperature, spec.sampling.top_p, seed)
    if (row.policy, row.temperature, row.top_p, row.seed) != asked:
        return "has another seed, policy or temperature than the plan gives it"
    decode = judge.decode if part.prefix else None
    if decode is not None and row.text != decode((*part.prefix, *row.token_ids)):
        return "does not continue the prefix that the plan gives it"
    return ""


def _grades(
    judge: Judge, files: ShardFiles, rollouts: Sequence[Rollout], grades: Sequence[Grade]
) -> Iterator[Found]:
    assert files.graded is not None
    path, run_spec, bad = files.graded.grades, judge.run_spec, _bad_of(files.accepted)
    asked = [run_spec.by_hash[one] for one in files.spec.queries_Q if one not in bad]
    if path.split("/")[2] != grade_key(
        files.accepted.rollout, without_hidden(asked), run_spec.grader
    ):
        yield path, "another grader made it, or against other answers"
    left_out = _bad_of(files.graded)
    want = [(row.query, row.sample_index) for row in rollouts if row.query not in left_out]
    if [(row.query, row.sample_index) for row in grades] != want:
        yield path, "its rows are not those of its rollouts"


def _classes_of(files: ShardFiles) -> str:
    return "" if files.graded is None else files.graded.classes


def _classes(
    judge: Judge,
    files: ShardFiles,
    rollouts: Sequence[Rollout],
    grades: Sequence[Grade],
    classes: Sequence[AnswerClass],
) -> Iterator[Found]:
    """Classes of answers that are not those of the shard's rows. (Like grades, they are not made
    again: whether two answers are equal is the grader's word.)"""
    path = _classes_of(files)
    if path.split("/")[2] != classes_key(files.accepted.rollout, judge.run_spec.grader):
        yield path, "another grader made it, or of other rollouts"
    places = [(row.query, row.sample_index) for row in rollouts]
    if [(one.query, one.sample_index) for one in classes] != places:
        yield path, "its rows are not those of its rollouts"
        return
    graded = {(one.query, one.sample_index): one.outcome for one in grades}
    class_of = {(one.query, one.sample_index): one.equals for one in classes}
    for row, one in zip(rollouts, classes, strict=True):
        outcome = graded.get((row.query, row.sample_index))
        votes = outcome == ANSWERED and row.finish == "stop"
        first = one.equals is not None and class_of.get((row.query, one.equals)) == one.equals
        if votes != (one.equals is not None) or (votes and not first):
            yield path, f"sample {row.sample_index} of {row.query_id} has a class that cannot be"


# --- scored ----------------------------------------------------------------------------------


def _scores(
    judge: Judge, files: ShardFiles, graded: _Graded, scores: Sequence[Score]
) -> Iterator[Found]:
    assert files.scored is not None
    path, scoring = files.scored.scores, files.scoring
    origin = {(row.query, row.sample_index): row for row in graded.rows}
    for score in scores:
        row = origin.get((score.query, score.sample_index))
        if row is None:
            name = f"sample {score.sample_index} of {score.query}"
            yield path, f"it scores {name}, which is not of this shard"
        elif scoring is not None and (wrong := _scored_otherwise(judge, scoring, row, score)):
            yield path, f"sample {row.sample_index} of {row.query_id}: {wrong}"
    if scoring is None:
        return
    assert files.graded is not None
    stored, bad = (files.accepted.rollout, files.graded.grades), _bad_of(files.accepted)
    task = ScoreTask.of(
        judge.run_spec,
        files.spec,
        stored,
        bad,
        scoring=scoring,
        rule=files.rule,
        vote=files.vote,
        classes=_classes_of(files),
    )
    asked = [
        (row.query, row.sample_index) for row in rows_to_score(graded.rows, graded.grades, task)
    ]
    run_spec = judge.run_spec
    key = score_key(task, asked, run_spec.engine, scored_how(run_spec.config))
    if path.split("/")[2] != key:
        yield path, f"another process reward model than {scoring.prm.version} made it, or of others"
    problem = scores_problem(asked, scores, files.scored.excluded)
    if problem is not None:
        yield path, problem


def _scored_otherwise(judge: Judge, scoring: Scoring, row: Rollout, score: Score) -> str:
    try:
        reward = reward_p(score.step_scores, scoring.aggregate)
    except ValueError as error:
        return str(error)
    if not math.isclose(reward, score.reward_p, rel_tol=1e-12):
        return f"its R_p is {score.reward_p:.6g}, and its step scores give {reward:.6g}"
    if judge.decode is None:
        return ""
    ends = tuple(merged(step_ends(row.token_ids, judge.decode), MOST_STEPS))
    return "" if score.step_ends == ends else "its scores do not stand at the ends of its steps"


# --- selected --------------------------------------------------------------------------------


def _selected(files: ShardFiles, graded: _Graded, selected: Sequence[Selected]) -> Iterator[Found]:
    """Rows that were never sampled, or are not correct."""
    path, rollout = str(files.selected), files.accepted.rollout
    origin = {
        (row.query, row.sample_index): (row, outcome)
        for row, outcome in zip(
            graded.rows,
            graded.outcomes if files.vote else [grade.outcome for grade in graded.grades],
            strict=True,
        )
    }
    places = [(row.query, row.sample_index) for row in selected]
    if len(places) != len(set(places)):
        yield path, "it holds a sample twice"
    for row in selected:
        name = f"sample {row.sample_index} of {row.query_id}"
        source, outcome = origin.get((row.query, row.sample_index), (None, ""))
        if source is None or row.rollout_shard != rollout:
            yield path, f"{name} is not of this shard"
        elif (row.token_ids, row.logprobs) != (source.token_ids, source.logprobs):
            yield path, f"{name} is not what was sampled"
        elif outcome != "correct":
            yield path, f"{name} was graded {outcome!r}"


def _unselected(files: ShardFiles) -> Iterator[Found]:
    """A shard of which nothing was selected although the run's rule asks for it."""
    assert files.graded is not None
    waits = files.scoring is not None and files.scored is None
    if files.selected is None and files.rule is not None and not waits:
        what = f"nothing of it was selected, which {files.rule.name} is for"
        yield files.graded.grades, what


def _chosen(
    judge: Judge,
    files: ShardFiles,
    graded: _Graded,
    scores: Sequence[Score] | None,
    selected: Sequence[Selected] | None,
) -> Iterator[Found]:
    """What the run's rule does not choose of these grades and scores."""
    assert files.graded is not None
    if selected is None or files.selected is None:
        yield from _unselected(files)
        return
    path, rule, seed = files.selected, files.rule, judge.run_spec.config.run.seed
    if rule is None:
        yield path, "nothing asked for a selection"
        return
    read, reward_of, identity = files.graded.grades, None, rule.identity
    if scores is not None and files.scored is not None:
        read = f"{read}+{files.scored.scores}"
        reward_of = {(one.query, one.sample_index): one.reward_p for one in scores}
    event = files.scored or files.graded
    if files.vote is not None:
        read, identity = f"{read}+{files.graded.classes}", identity | {"vote": files.vote.identity}
        if event.votes != graded.votes:
            yield path, "its event tells of other pseudo-labels than those of its votes"
    made = choose(graded.rows, graded.outcomes, reward_of, rule, seed)
    kept, rewards = made.kept, made.rewards
    for row in selected:
        reward = 1.0 if rewards is None else rewards.get((row.query, row.sample_index))
        if row.reward != reward:
            yield path, f"sample {row.sample_index} of {row.query_id} was selected by another score"
    places = [(row.query, row.sample_index) for row in kept]
    if [(row.query, row.sample_index) for row in selected] != places:
        yield path, f"it does not hold what {rule.name} keeps of its shard"
    key = select_key(files.accepted.rollout, read, identity, seed, files.spec.prompt)
    if path.split("/")[2] != key:
        yield path, "other grades or scores, or another rule, chose it"
    if event.coverage != coverage(graded.rows, graded.outcomes, kept):
        yield path, "its event counts another coverage"
