"""Replay: the decisions of a run made again on what it stored, with other settings and no engine.

From rollouts, grades and scores in the store, iteration by iteration: which responses another rule,
another k, a threshold, another number of samples or another order would have kept, beside what the
run kept itself; how often the majority of the samples is right, and what other votes would have
made of unlabelled queries. What a replay cannot say is
where another choice would have led: the later iterations were sampled from the policies that the
run's own choice made.

What always holds: with the run's own settings exactly the run's own selection comes out, by the
same function (`pipeline.stages.select.choose`).

Axes: K samples of a query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import BadConfig
from pipeline.metrics.votes import winner
from pipeline.phases.prm import evolve_rule, unlabelled_vote
from pipeline.query import Query
from pipeline.records import AnswerClass, Grade, Rollout, Score, Selected
from pipeline.reports.tables import decimals, percent
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import IterationClosed
from pipeline.run.spec import RunSpec
from pipeline.run.state import ShardState, State
from pipeline.run.stored import StoredRun
from pipeline.selection.answer_classes import answer_classes
from pipeline.selection.pseudo_labels import PseudoLabel, Voting, vote, voted_outcomes
from pipeline.selection.rules import Rule
from pipeline.stages.grade import with_grades
from pipeline.stages.score import by_equal_texts
from pipeline.stages.select import Place, choose, outcomes_of, place_of
from pipeline.storage.artifacts import inspect_rows

OWN = "as run"


@dataclass(frozen=True)
class Setting:
    """What is replayed. samples: of each query the first so many; seed: of what is drawn; vote: how
    the samples of unlabelled queries vote."""

    name: str
    rule: Rule
    samples: int
    seed: int
    vote: Voting | None = None

    @classmethod
    def of(cls, name: str, state: State, spec: RunSpec) -> Setting:
        """What a run of this configuration keeps, with the process reward model that it has."""
        config = spec.config
        rule, vote = evolve_rule(state, spec), unlabelled_vote(state, spec)
        return cls(name, rule, config.generate.samples, config.run.seed, vote)


@dataclass(frozen=True)
class Stored:
    """A shard of an iteration as the run left it: rows, grades and scores belong together; kept is
    what the run selected. classes, truth: of unlabelled queries with pseudo-labels, which answers
    are equal, and by query whose hidden answer is there which of these are correct."""

    iteration: int
    rows: Sequence[Rollout]
    grades: Sequence[Grade]
    reward_of: Mapping[Place, float] | None
    kept: frozenset[Place]
    classes: Sequence[AnswerClass] | None = None
    truth: Mapping[str, Sequence[int]] = field(default_factory=dict)


def evolved(
    events: Iterable[Event], pools: Sequence[str] = ("evolve",)
) -> dict[int, list[ShardState]]:
    """The shards that each iteration of a run was made of, as they stood when it was closed. pools:
    "evolve", the labelled queries; "unlabelled"."""
    state, found = State(), {}
    for event in events:
        if isinstance(event, IterationClosed):
            found[event.iteration] = [
                shard
                for pool in pools
                for _, shard in sorted(state.shards.get(f"{pool}/{event.iteration}", {}).items())
            ]
        state.apply(event)
    return found


def stored_shards(run: StoredRun) -> list[Stored]:
    """The shards of all iterations that are closed.

    Raises:
        StoreMissing, CorruptObject: an object is gone, or corrupt.
    """
    found, store = [], run.store
    for iteration, shards in evolved(run.events, ("evolve", "unlabelled")).items():
        for shard in shards:
            assert shard.grades is not None
            rows, grades = with_grades(
                inspect_rows(store, shard.rollout, Rollout),
                inspect_rows(store, shard.grades, Grade),
            )
            reward_of = None
            if shard.scores is not None:
                scores: list[Score] = inspect_rows(store, shard.scores, Score)
                reward_of = {(one.query, one.sample_index): one.reward_p for one in scores}
            selected: list[Selected] = []
            if shard.selected is not None:
                selected = inspect_rows(store, shard.selected, Selected)
            kept = frozenset((row.query, row.sample_index) for row in selected)
            classes: list[AnswerClass] | None = None
            if shard.classes:
                classes = inspect_rows(store, shard.classes, AnswerClass)
            found.append(Stored(iteration, rows, grades, reward_of, kept, classes, shard.truth))
    return found


def kept_rows(shard: Stored, setting: Setting) -> list[Rollout]:
    """What a setting keeps of a shard.

    Raises:
        BadConfig: it asks for what the shard does not have.
    """
    rows, grades = _first(shard, setting)
    if shard.classes is None:
        outcomes = outcomes_of("question", rows, grades, setting.rule)
    else:
        outcomes = voted_outcomes(rows, grades, shard.classes, _votes(shard, setting))
    if setting.rule.by_prm and shard.reward_of is None:
        raise BadConfig(
            f"{setting.name}: select.by = prm needs scores, and this run scored nothing in "
            f"iteration {shard.iteration}: rank by what it stored (select.by = logprob, length "
            "or random)"
        )
    return choose(rows, outcomes, shard.reward_of, setting.rule, setting.seed).kept


def _votes(shard: Stored, setting: Setting) -> dict[str, PseudoLabel]:
    """The pseudo-labels of a shard of unlabelled queries."""
    assert shard.classes is not None
    assert setting.vote is not None
    if setting.vote.by == "prm" and shard.reward_of is None:
        raise BadConfig(
            f"{setting.name}: unlabelled.vote = prm needs scores, and this run scored nothing in "
            f"iteration {shard.iteration}: count what it stored (unlabelled.vote = logprob or "
            "majority)"
        )
    rows, grades = _first(shard, setting)
    rewards = by_equal_texts(rows, shard.reward_of or {})
    return vote(rows, grades, shard.classes, rewards, setting.vote)


def _first(shard: Stored, setting: Setting) -> tuple[list[Rollout], list[Grade]]:
    pairs = list(zip(shard.rows, shard.grades, strict=True))
    most = 1 + max((row.sample_index for row in shard.rows), default=-1)
    if setting.samples > most:
        raise BadConfig(
            f"{setting.name}: generate.samples = {setting.samples}, and the run stored {most} of "
            "each query"
        )
    pairs = [(row, grade) for row, grade in pairs if row.sample_index < setting.samples]
    return [row for row, _ in pairs], [grade for _, grade in pairs]


def majority_right(shard: Stored, setting: Setting, by_hash: Mapping[str, Query]) -> list[bool]:
    """For each query of a shard whether the answer that most of its samples give is right; of
    unlabelled ones, for those whose answer is known."""
    if shard.classes is not None:
        most = _votes(shard, replace(setting, vote=Voting("majority")))
        return [one.sample in shard.truth[q] for q, one in most.items() if q in shard.truth]
    rows, grades = _first(shard, setting)
    groups: dict[str, list[tuple[Rollout, Grade]]] = {}
    for row, grade in zip(rows, grades, strict=True):
        groups.setdefault(row.query, []).append((row, grade))
    found = []
    for name, group_K in groups.items():
        # What was truncated, or not graded in time, does not vote.
        answers_K = [
            grade.extracted if row.finish == "stop" and grade.outcome != "timeout" else None
            for row, grade in group_K
        ]
        classes_K = answer_classes(answers_K, by_hash[name])
        place = winner("majority", classes_K, [None] * len(classes_K))
        found.append(place is not None and group_K[place][1].outcome == "correct")
    return found


def replay_rows(
    shards: Sequence[Stored], settings: Sequence[Setting], by_hash: Mapping[str, Query]
) -> list[dict[str, Any]]:
    """A row for each setting: responses and queries kept, their mean tokens and log-likelihood, the
    share that the run kept too, by iteration; and how often the majority is right."""
    rows = []
    for setting in settings:
        kept: dict[int, list[tuple[Stored, list[Rollout]]]] = {}
        for shard in shards:
            kept.setdefault(shard.iteration, []).append((shard, kept_rows(shard, setting)))
        votes = [vote for shard in shards for vote in majority_right(shard, setting, by_hash)]
        every = [(shard, row) for part in kept.values() for shard, some in part for row in some]
        rows.append(
            {
                "setting": setting.name,
                "rule": setting.rule.identity,
                "samples": setting.samples,
                **_figures(every),
                "majority_right": sum(votes) / len(votes) if votes else None,
                **_pseudo_labels(shards, setting),
                "iterations": {
                    t: _figures([(shard, row) for shard, some in part for row in some])
                    for t, part in sorted(kept.items())
                },
            }
        )
    return rows


def _pseudo_labels(shards: Sequence[Stored], setting: Setting) -> dict[str, Any]:
    """How many pseudo-labels a setting gives and which share of those with a known truth is
    correct; {} where a run has none."""
    unlabelled = [shard for shard in shards if shard.classes is not None]
    if not unlabelled:
        return {}
    taken = [(s, q, one) for s in unlabelled for q, one in _votes(s, setting).items() if one.taken]
    known = [
        one.sample in shard.truth[query] for shard, query, one in taken if query in shard.truth
    ]
    rate = sum(known) / len(known) if known else None
    return {"pseudo_labels": len(taken), "known": len(known), "correct_pseudo_labels": rate}


def _figures(kept: Sequence[tuple[Stored, Rollout]]) -> dict[str, Any]:
    n = len(kept)
    return {
        "kept": n,
        "queries": len({(shard.iteration, row.query) for shard, row in kept}),
        "tokens": sum(len(row.token_ids) for _, row in kept) / n if n else None,
        "nats": sum(sum(row.logprobs) for _, row in kept) / n if n else None,
        "kept_by_the_run": sum(place_of(row) in shard.kept for shard, row in kept) / n
        if n
        else None,
    }


def replay_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and a line for each setting."""
    voted = any("pseudo_labels" in row for row in rows)
    table = [["setting", "kept", "queries", "tokens", "log-likelihood", "kept by the run too %",
              "majority right %", *(["pseudo-labels", "correct %"] if voted else [])]]  # fmt: skip
    for row in rows:
        labels = [str(row["pseudo_labels"]), percent(row["correct_pseudo_labels"])] if voted else []
        table.append(
            [
                row["setting"],
                str(row["kept"]),
                str(row["queries"]),
                decimals(row["tokens"], digits=1),
                decimals(row["nats"], digits=1),
                percent(row["kept_by_the_run"]),
                percent(row["majority_right"]),
                *labels,
            ]
        )
    return table
