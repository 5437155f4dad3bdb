"""What is done with a graded shard and its scores: which rows are scored, and selection by them.

Idempotent, as every stage: doing it twice stores the same bytes under the same path. A response
that cannot be scored (it has no finished step, or is longer than the model's context) is named and
counted; it is never selected by a score that it does not have.

Axes: S steps of a response.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from pipeline.config.schema import Config
from pipeline.errors import FailureKind
from pipeline.generation.shards import EngineIdentity, ShardSpec
from pipeline.hashing import key_of
from pipeline.prompts import PromptKind
from pipeline.query import Query
from pipeline.records import AnswerClass, Grade, Rollout, Score
from pipeline.refs import PolicyRef
from pipeline.responses import MOST_STEPS
from pipeline.run.shard_answers import ScoreDone
from pipeline.run.spec import RunSpec
from pipeline.selection.coverage import choice_report, coverage
from pipeline.selection.pseudo_labels import PseudoLabel, Voting
from pipeline.selection.rewards import Aggregate
from pipeline.selection.rules import Rule, candidates, dedup
from pipeline.stages.grade import graded_rows
from pipeline.stages.pseudo_label import to_be_scored, voted
from pipeline.stages.select import (
    Place,
    choice_of,
    choose,
    outcomes_of,
    place_of,
    select_key,
    store_selected,
)
from pipeline.storage.artifacts import SCORES, put_content, read_rows
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store


def rows_to_score(
    rows: Sequence[Rollout], grades: Sequence[Grade], task: ScoreTask
) -> list[Rollout]:
    """The rows of a shard that need a score, equal texts once.

    Where some rows of one text may be selected and others may not (cut, or never graded in time),
    the text is scored by the row that selection would take.
    """
    which = task.scoring.which
    if not isinstance(which, str):
        wanted = set(which)
    else:
        chosen = candidates(rows, _outcomes_to_score(rows, grades, task))
        if which == "all":
            texts = {(row.query, row.text) for row in chosen}
            chosen += [row for row in dedup(rows) if (row.query, row.text) not in texts]
        wanted = {(row.query, row.sample_index) for row in chosen}
    return [row for row in rows if (row.query, row.sample_index) in wanted]


def _outcomes_to_score(
    rows: Sequence[Rollout], grades: Sequence[Grade], task: ScoreTask
) -> list[str]:
    if task.vote is not None:
        return to_be_scored(grades)
    return outcomes_of(task.prompt, rows, grades, task.rule)


def scores_problem(
    asked: Sequence[Place], found: Sequence[Score], excluded: Mapping[str, int]
) -> str | None:
    """Why these are not the scores that were asked for; None when they are.

    They are when each row that was asked for has one score or is excluded for a reason, and no
    other row has any: then what lacks a score is, place by place, what was excluded.
    """
    have = [(score.query, score.sample_index) for score in found]
    told = sum(excluded.values())
    strange = set(have) - set(asked) or len(have) != len(set(have))
    if strange or len(asked) - len(have) != told:
        return f"it holds {len(have)} scores of {len(asked)} responses, and {told} are excluded"
    return None


def scored_how(config: Config) -> str:
    """How a PRM is read, and by which engine, as part of the identity of its scores (`kind` of
    `score_key`)."""
    prm = config.prm
    how = "head" if prm.kind == "head" else f"tag {prm.tag!r} {prm.good!r} {prm.bad!r}"
    return how if prm.engine == "vllm" else f"{how} by {prm.engine}"


def score_key(task: ScoreTask, places: Sequence[Place], engine: EngineIdentity, kind: str) -> str:
    """Identity of the scores of some rows of a rollout object. engine: the run's; kind:
    `scored_how`."""
    return key_of(
        "score",
        {
            "rollout": task.rollout,
            "rows": sorted(places),
            "prm": task.scoring.prm.version,
            "kind": kind,
            "aggregate": task.scoring.aggregate,
            "most_steps": MOST_STEPS,
            "engine": engine.identity,
        },
    )


ScoreMany = Callable[[Sequence[Rollout]], Sequence[Score | str]]
"""Scores of some rows of a shard, in their order; or why a response has none, in a word."""


def score_shard(
    store: Store,
    task: ScoreTask,
    score_many: ScoreMany,
    *,
    engine: EngineIdentity,
    kind: str,
    clock: Callable[[], float] = time.monotonic,
) -> ScoreDone:
    """Score the rows of a graded shard that need it and, with a rule, select by their scores; both
    results are stored. A shard of which no row needs a score asks `score_many` nothing.

    engine, kind: as of `score_key`.

    Raises:
        ArtifactLost: an object is corrupt or gone.
    """
    started = clock()
    rows, grades = graded_rows(store, task.rollout, task.grades)
    asked = rows_to_score(rows, grades, task)
    answers = score_many(asked) if asked else []
    if len(answers) != len(asked):
        raise RuntimeError(f"{len(answers)} scores came for {len(asked)} responses of {task.key}")
    scores = [answer for answer in answers if not isinstance(answer, str)]
    excluded = excluded_counts([answer for answer in answers if isinstance(answer, str)])
    places = [(row.query, row.sample_index) for row in asked]
    key = score_key(task, places, engine, kind)
    path = put_content(store, SCORES, key, to_parquet(scores, Score), "parquet")
    done = ScoreDone(task.key, task.rollout, path, None, None, excluded, {}, clock() - started)
    if task.rule is None:
        return done
    return _selected(store, task, done, (rows, grades), scores)


def _selected(
    store: Store,
    task: ScoreTask,
    done: ScoreDone,
    graded: tuple[Sequence[Rollout], Sequence[Grade]],
    scores: Sequence[Score],
) -> ScoreDone:
    """A scored shard's answer with what its rule selects by the scores, which is stored."""
    assert task.rule is not None
    rows, grades = graded
    reward_of = {(s.query, s.sample_index): s.reward_p for s in scores}
    read, rule = f"{task.grades}+{done.scores}", task.rule.identity
    labels: dict[str, PseudoLabel] = {}
    if task.vote is None:
        outcomes = outcomes_of(task.prompt, rows, grades, task.rule)
    else:
        classes: list[AnswerClass] = read_rows(store, task.classes, AnswerClass)
        labels, outcomes = voted(rows, grades, classes, rewards_by_sample(rows, scores), task.vote)
        read, rule = f"{read}+{task.classes}", rule | {"vote": task.vote.identity}
    made = choose(rows, outcomes, reward_of, task.rule, task.seed)
    key = select_key(task.rollout, read, rule, task.seed, task.prompt)
    steps = {(s.query, s.sample_index): len(s.step_ends) for s in scores}
    all_scored = all(place_of(row) in steps for row in made.chosen_from)
    return replace(
        done,
        selected=store_selected(
            store, key, made.kept, rollout=task.rollout, prompt=task.prompt, rewards=made.rewards
        ),
        coverage=coverage(rows, outcomes, made.kept),
        choice=choice_report(made.chosen_from, made.kept, steps)
        if all_scored
        else choice_of(made.chosen_from, made.kept),
        votes={query: label.to_dict() for query, label in labels.items()},
    )


def rewards_by_sample(
    rows: Sequence[Rollout], scores: Sequence[Score]
) -> dict[Place, float | None]:
    """The reward of every sample: equal texts share the one of the row that was scored.

    None: the response could not be scored.
    """
    return by_equal_texts(rows, {(s.query, s.sample_index): s.reward_p for s in scores})


def by_equal_texts(
    rows: Sequence[Rollout], reward_of: Mapping[Place, float]
) -> dict[Place, float | None]:
    """`rewards_by_sample` of the rewards of the rows that were scored."""
    by_text: dict[tuple[str, str], float] = {}
    for row in rows:
        reward = reward_of.get((row.query, row.sample_index))
        if reward is not None:
            by_text[row.query, row.text] = reward
    return {(row.query, row.sample_index): by_text.get((row.query, row.text)) for row in rows}


def excluded_counts(reasons: Sequence[str]) -> dict[str, int]:
    """How many responses have no score, by reason."""
    return dict(sorted(Counter(reasons).items()))


@dataclass(frozen=True)
class Scoring:
    """What a process reward model scores of a graded shard.

    which: "right", the distinct correct responses that ended by themselves (to an unlabelled query
    those with a readable answer, any of which may win the vote); "all", every distinct response; or
    the samples themselves, as (query, sample index).
    """

    prm: PolicyRef
    which: Literal["right", "all"] | tuple[tuple[str, int], ...]
    aggregate: Aggregate


@dataclass(frozen=True)
class ScoreTask:
    """Score a graded rollout shard and, with a rule, select from it.

    vote, classes: how the samples of unlabelled queries vote, and where the classes of their equal
    answers lie.
    """

    key: str
    rollout: str
    grades: str
    queries_Q: tuple[Query, ...]
    prompt: PromptKind
    scoring: Scoring
    rule: Rule | None
    seed: int
    vote: Voting | None = None
    classes: str = ""

    @classmethod
    def of(
        cls,
        run: RunSpec,
        spec: ShardSpec,
        paths: tuple[str, str],
        bad: Collection[str],
        *,
        scoring: Scoring,
        rule: Rule | None,
        vote: Voting | None = None,
        classes: str = "",
    ) -> ScoreTask:
        """Of a shard of a run. paths: its rollouts, and their grades; bad: queries without rows."""
        return cls(
            key=spec.key,
            rollout=paths[0],
            grades=paths[1],
            queries_Q=tuple(run.by_hash[item] for item in spec.queries_Q if item not in bad),
            prompt=spec.prompt,
            scoring=scoring,
            rule=rule,
            seed=run.config.run.seed,
            vote=vote,
            classes=classes,
        )


@dataclass(frozen=True)
class ScoreFailed:
    """The scorers gave a shard up; kinds and path as of a `ShardFailed`."""

    key: str
    reason: str
    kind: FailureKind = "infrastructure"
    path: str = ""


class Scorer(Protocol):
    """Process reward models, however many and wherever."""

    def submit(self, task: ScoreTask) -> None:
        """Score this shard. Submitting a key that is under way does nothing."""

    def poll(self) -> Sequence[ScoreDone | ScoreFailed]:
        """What has ended since the last call."""
