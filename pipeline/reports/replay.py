"""Replay: the decisions of a run made again on what it stored, with other settings and no engine.

From rollouts, grades and scores in the store, iteration by iteration: which responses another rule,
another k, a threshold, another number of samples or another order would have kept, beside what the
run kept itself; and how often the majority of the samples is right. What a replay cannot say is
where another choice would have led: the later iterations were sampled from the policies that the
run's own choice made.

What always holds: with the run's own settings exactly the run's own selection comes out, by the
same function (`pipeline.stages.select.choose`).

Axes: K samples of a query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import BadConfig
from pipeline.metrics.votes import winner
from pipeline.phases.prm import evolve_rule
from pipeline.query import Query
from pipeline.records import Grade, Rollout, Score, Selected
from pipeline.reports.tables import percent
from pipeline.run.events.lifecycle import IterationClosed
from pipeline.run.events.wire import from_wire
from pipeline.run.spec import RunSpec
from pipeline.run.state import ShardState, State
from pipeline.selection.answer_classes import answer_classes
from pipeline.selection.rules import Rule
from pipeline.stages.grade import with_grades
from pipeline.stages.select import Place, choose, outcomes_of, place_of
from pipeline.storage.artifacts import inspect_rows
from pipeline.storage.store import Store

OWN = "as run"


@dataclass(frozen=True)
class Setting:
    """What is replayed. samples: of each query the first so many; seed: of what is drawn."""

    name: str
    rule: Rule
    samples: int
    seed: int

    @classmethod
    def of(cls, name: str, state: State, spec: RunSpec) -> Setting:
        """What a run of this configuration keeps, with the process reward model that it has."""
        config = spec.config
        return cls(name, evolve_rule(state, spec), config.generate.samples, config.run.seed)

    def asking(self, rule: Rule) -> Setting:
        """The same by another rule, to the letter: nothing takes the place of its scores."""
        return replace(self, rule=rule)


@dataclass(frozen=True)
class Stored:
    """A shard of an iteration as the run left it: rows, grades and scores belong together; kept is
    what the run selected."""

    iteration: int
    rows: Sequence[Rollout]
    grades: Sequence[Grade]
    reward_of: Mapping[Place, float] | None
    kept: frozenset[Place]


def evolved(events: Iterable[Mapping[str, Any]]) -> dict[int, list[ShardState]]:
    """The shards that each iteration of a run was made of, as they stood when it was closed."""
    state, found = State(), {}
    for event in map(from_wire, events):
        if isinstance(event, IterationClosed):
            shards = state.shards.get(f"evolve/{event.iteration}", {})
            found[event.iteration] = [shards[index] for index in sorted(shards)]
        state.apply(event)
    return found


def stored_shards(store: Store, events: Iterable[Mapping[str, Any]]) -> list[Stored]:
    """The shards of all iterations that are closed.

    Raises:
        StoreMissing, CorruptObject: an object is gone, or corrupt.
    """
    found = []
    for iteration, shards in evolved(events).items():
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
            found.append(Stored(iteration, rows, grades, reward_of, kept))
    return found


def chosen_places(shard: Stored, setting: Setting) -> frozenset[Place]:
    """What a setting keeps of a shard, by query and sample index.

    Raises:
        BadConfig: it asks for what the shard does not have.
    """
    return frozenset(place_of(row) for row in _kept(shard, setting))


def _kept(shard: Stored, setting: Setting) -> list[Rollout]:
    rows, grades = _first(shard, setting)
    outcomes = outcomes_of("question", rows, grades, setting.rule)
    if setting.rule.by_prm and shard.reward_of is None:
        raise BadConfig(
            f"{setting.name}: select.by = prm needs scores, and this run scored nothing in "
            f"iteration {shard.iteration}: rank by what it stored (select.by = logprob, length "
            "or random)"
        )
    return choose(rows, outcomes, shard.reward_of, setting.rule, setting.seed).kept


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
    """For each query of a shard whether the answer that most of its samples give is right."""
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
            kept.setdefault(shard.iteration, []).append((shard, _kept(shard, setting)))
        votes = [vote for shard in shards for vote in majority_right(shard, setting, by_hash)]
        every = [(shard, row) for part in kept.values() for shard, some in part for row in some]
        rows.append(
            {
                "setting": setting.name,
                "rule": setting.rule.identity,
                "samples": setting.samples,
                **_figures(every),
                "majority_right": sum(votes) / len(votes) if votes else None,
                "iterations": {
                    t: _figures([(shard, row) for shard, some in part for row in some])
                    for t, part in sorted(kept.items())
                },
            }
        )
    return rows


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
    table = [["setting", "kept", "queries", "tokens", "log-likelihood", "kept by the run too %",
              "majority right %"]]  # fmt: skip
    for row in rows:
        table.append(
            [
                row["setting"],
                str(row["kept"]),
                str(row["queries"]),
                _number(row["tokens"]),
                _number(row["nats"]),
                percent(row["kept_by_the_run"]),
                percent(row["majority_right"]),
            ]
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
