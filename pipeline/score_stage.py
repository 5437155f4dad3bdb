"""What is done with a graded shard and its scores: which rows are scored, and selection by them.

Idempotent, as every stage: doing it twice stores the same bytes under the same path. A response
that cannot be scored (it has no finished step, or is longer than the model's context) is named and
counted; it is never selected by a score that it does not have.

Axes: S steps of a response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pipeline.canonical import key_of
from pipeline.plan import EngineIdentity, select_key
from pipeline.prm_labels import MOST_STEPS
from pipeline.records import Grade, Rollout, Score
from pipeline.roles import ScoreDone, ScoreTask
from pipeline.select import Coverage, Rule, candidates, choice_report, coverage, dedup, select
from pipeline.settings import Config
from pipeline.stages import Lost, outcomes_of, read_rows, store_selected
from pipeline.store import Store

SCORES = "score"
Place = tuple[str, int]
"""Query and sample index."""


def graded_rows(store: Store, rollout: str, grades: str) -> tuple[list[Rollout], list[Grade]]:
    """The rows of a rollout shard that were graded, with their grades.

    Raises:
        Lost: one of the objects is corrupt or gone.
    """
    return with_grades(read_rows(store, rollout, Rollout), read_rows(store, grades, Grade))


def with_grades(
    rows: Sequence[Rollout], grades: Sequence[Grade]
) -> tuple[list[Rollout], list[Grade]]:
    """The rows that have a grade, and these grades, in the order of the rows."""
    graded = {(grade.query, grade.sample_index): grade for grade in grades}
    kept = [row for row in rows if (row.query, row.sample_index) in graded]
    return kept, [graded[row.query, row.sample_index] for row in kept]


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
        chosen = candidates(rows, outcomes_of(task.prompt, rows, grades))
        if which == "all":
            texts = {(row.query, row.text) for row in chosen}
            chosen += [row for row in dedup(rows) if (row.query, row.text) not in texts]
        wanted = {(row.query, row.sample_index) for row in chosen}
    return [row for row in rows if (row.query, row.sample_index) in wanted]


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
            "engine": asdict(engine),
        },
    )


def finish_scored(
    store: Store, task: ScoreTask, scores: str, excluded: Mapping[str, int], seconds: float
) -> ScoreDone:
    """Select from a shard by its scores, where the task has a rule.

    Raises:
        Lost: an object is corrupt or gone, or the scores are not those that were asked for.
    """
    rows, grades = graded_rows(store, task.rollout, task.grades)
    found: list[Score] = read_rows(store, scores, Score)
    asked = [(row.query, row.sample_index) for row in rows_to_score(rows, grades, task)]
    problem = scores_problem(asked, found, excluded)
    if problem is not None:
        raise Lost(scores, problem)
    if task.rule is None:
        return ScoreDone(task.key, task.rollout, scores, None, None, dict(excluded), {}, seconds)
    reward_of = {(s.query, s.sample_index): s.reward_p for s in found}
    outcomes = outcomes_of(task.prompt, rows, grades)
    scored = with_scores(rows, outcomes, reward_of)
    kept = kept_by_score(scored, reward_of, task.rule, task.seed)
    key = select_key(
        task.rollout, f"{task.grades}+{scores}", task.rule.identity, task.seed, task.prompt
    )
    selected = store_selected(
        store, key, kept, rollout=task.rollout, prompt=task.prompt, rewards=reward_of
    )
    counted: Coverage = coverage(rows, outcomes, kept)
    ends = {(s.query, s.sample_index): len(s.step_ends) for s in found}
    choice = choice_report(scored, kept, ends)
    return ScoreDone(
        task.key, task.rollout, scores, selected, counted, dict(excluded), choice, seconds
    )


def with_scores(
    rows: Sequence[Rollout], outcomes: Sequence[str], reward_of: Mapping[Place, float]
) -> list[Rollout]:
    """The candidates for selection that have a score; of scores without a `scores_problem` the
    others are responses that a reason excludes."""
    chosen = candidates(rows, outcomes)
    return [row for row in chosen if (row.query, row.sample_index) in reward_of]


def kept_by_score(
    scored: Sequence[Rollout], reward_of: Mapping[Place, float], rule: Rule, seed: int
) -> list[Rollout]:
    """What a rule keeps of candidates that all have a score."""
    rewards = [reward_of[row.query, row.sample_index] for row in scored]
    return select(scored, ["correct"] * len(scored), rewards, rule, seed=seed)


def rewards_by_sample(
    rows: Sequence[Rollout], scores: Sequence[Score]
) -> dict[Place, float | None]:
    """The reward of every sample: equal texts share the one of the row that was scored.

    None: the response could not be scored.
    """
    by_text: dict[tuple[str, str], float] = {}
    reward_of = {(s.query, s.sample_index): s.reward_p for s in scores}
    for row in rows:
        reward = reward_of.get((row.query, row.sample_index))
        if reward is not None:
            by_text[row.query, row.text] = reward
    return {(row.query, row.sample_index): by_text.get((row.query, row.text)) for row in rows}


def excluded_counts(reasons: Sequence[str]) -> dict[str, int]:
    """How many responses have no score, by reason."""
    return dict(sorted(Counter(reasons).items()))
