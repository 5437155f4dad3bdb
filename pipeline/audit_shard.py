"""One shard under audit: what was sampled, graded and selected belong together, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StoreError
from pipeline.plan import ShardSpec, grade_key
from pipeline.query import Query
from pipeline.records import (
    Asked,
    Grade,
    Record,
    Rollout,
    Score,
    Selected,
    StepValues,
    from_parquet,
)
from pipeline.stages import group_problem
from pipeline.store import Store, get_verified

RECORDS_OF: Mapping[str, type[Record]] = {
    "queries": Asked,
    "rollout": Rollout,
    "grade": Grade,
    "labels": StepValues,
    "score": Score,
    "select": Selected,
}
Found = tuple[str, str]
"""A path and what is wrong with it."""


@dataclass(frozen=True)
class ShardFiles:
    """A shard's plan and the events about it."""

    spec: ShardSpec
    accepted: Mapping[str, Any]
    graded: Mapping[str, Any] | None = None
    scored: Mapping[str, Any] | None = None

    @property
    def selected(self) -> str | None:
        """What is trained on; where there are scores, it was selected by them."""
        return (self.scored or self.graded or {}).get("selected")

    @property
    def paths(self) -> list[str]:
        """Its objects: rollout, then grades, scores and selection where there are any."""
        grades, scores = (self.graded or {}).get("grades"), (self.scored or {}).get("scores")
        found = [self.accepted["rollout"], grades, scores, self.selected]
        return [path for path in found if path]


def check_shard(
    store: Store, files: ShardFiles, queries: Mapping[str, Query], grader: str
) -> list[Found]:
    """What is wrong with a shard; nothing, usually."""
    found: list[Found] = []

    def rows(path: str, kind: type[Any]) -> list[Any] | None:
        try:
            return from_parquet(get_verified(store, path, quarantine=False), kind)
        except StoreError as error:
            found.append((path, str(error)))
            return None

    rollouts = rows(files.accepted["rollout"], Rollout)
    graded, path = files.graded, files.selected
    grades = None if graded is None else rows(graded["grades"], Grade)
    scores = None if files.scored is None else rows(files.scored["scores"], Score)
    selected = rows(path, Selected) if path else None
    if rollouts is not None:
        found += _rollouts(files, rollouts)
    if graded is not None and rollouts is not None and grades is not None:
        without_rows = _bad_of(files.accepted)
        asked = [queries[one] for one in files.spec.queries_Q if one not in without_rows]
        if graded["grades"].split("/")[2] != grade_key(files.accepted["rollout"], asked, grader):
            found.append((graded["grades"], "another grader made it, or against other answers"))
        found += _grades(graded, rollouts, grades)
        if path and selected is not None:
            found += _selected(path, files.accepted["rollout"], rollouts, grades, selected)
    if files.scored is not None and rollouts is not None and scores is not None:
        found += _scores(files.scored["scores"], rollouts, scores, selected or ())
    return found


def _bad_of(event: Mapping[str, Any]) -> set[str]:
    return {item["query"] for item in event.get("bad", ())}


def _rollouts(files: ShardFiles, rows: Sequence[Rollout]) -> Iterator[Found]:
    spec, event, path = files.spec, files.accepted, files.accepted["rollout"]
    if path.split("/")[2] != spec.key:
        yield path, f"it does not lie under its shard's key {spec.key}"
    asked = [query for query in spec.queries_Q if query not in _bad_of(event)]
    problem = group_problem(rows, asked, {query: spec.samples_of(query) for query in asked})
    if problem is not None:
        yield path, problem
    if len(rows) != event["rows"] or sum(len(row.token_ids) for row in rows) != event["tokens"]:
        yield path, "its event counts other rows or tokens"
    for row in rows:
        same = (row.policy, row.temperature, row.top_p) == (
            spec.policy,
            spec.sampling.temperature,
            spec.sampling.top_p,
        )
        if not same or row.seed != spec.seed(row.query, row.sample_index):
            yield (
                path,
                f"sample {row.sample_index} of {row.query_id} has another seed, policy or "
                "temperature than the plan gives it",
            )
            return


def _grades(
    graded: Mapping[str, Any], rollouts: Sequence[Rollout], grades: Sequence[Grade]
) -> Iterator[Found]:
    left_out = _bad_of(graded)
    want = [(row.query, row.sample_index) for row in rollouts if row.query not in left_out]
    if [(row.query, row.sample_index) for row in grades] != want:
        yield graded["grades"], "its rows are not those of its rollouts"


def _scores(
    path: str,
    rollouts: Sequence[Rollout],
    scores: Sequence[Score],
    selected: Sequence[Selected],
) -> Iterator[Found]:
    lengths = {(row.query, row.sample_index): len(row.token_ids) for row in rollouts}
    rewards = {}
    for score in scores:
        place = (score.query, score.sample_index)
        rewards[place] = score.reward_p
        if place not in lengths or (score.step_ends and score.step_ends[-1] > lengths[place]):
            yield path, f"it scores sample {place[1]} of {place[0]}, which is not of this shard"
    for row in selected:
        if rewards.get((row.query, row.sample_index)) != row.reward:
            yield path, f"sample {row.sample_index} of {row.query_id} was selected by another score"


def _selected(
    path: str,
    rollout: str,
    rollouts: Sequence[Rollout],
    grades: Sequence[Grade],
    selected: Sequence[Selected],
) -> Iterator[Found]:
    origin = {(row.query, row.sample_index): row for row in rollouts}
    outcome = {(row.query, row.sample_index): row.outcome for row in grades}
    places = [(row.query, row.sample_index) for row in selected]
    if len(places) != len(set(places)):
        yield path, "it holds a sample twice"
    for row in selected:
        place = (row.query, row.sample_index)
        name = f"sample {row.sample_index} of {row.query_id}"
        source = origin.get(place)
        if source is None or row.rollout_shard != rollout:
            yield path, f"{name} is not of this shard"
        elif (row.token_ids, row.logprobs) != (source.token_ids, source.logprobs):
            yield path, f"{name} is not what was sampled"
        elif outcome.get(place) != "correct":
            yield path, f"{name} was graded {outcome.get(place)!r}"
