"""The responses that a run trained on, in words: question, images, response, answer and reward.

Read from the store alone, so they can be written out while a run goes on and long after it. The
learner reads the `Selected` shards (token ids); this joins them with the rollouts and grades that
they came from, and with the questions that were asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pipeline.records import Grade, Rollout, Selected
from pipeline.run.spec import RunSpec
from pipeline.run.stored import StoredRun
from pipeline.storage.artifacts import inspect_rows
from pipeline.storage.store import Store


def phases_of(run: StoredRun) -> list[str]:
    """The phases that responses were selected in, in the order of the run."""
    return list(dict.fromkeys(facts["purpose"] for facts in _selections(run)))


def selected_rows(run: StoredRun, phase: str | None = None) -> Iterator[dict[str, Any]]:
    """One plain JSON object for each selected response, in the order of the plan.

    phase: "warmup" or "evolve/3"; None: all of them.

    Raises:
        CorruptObject, StoreMissing: a shard is damaged or gone.
    """
    for facts in _selections(run):
        if phase in (None, facts["purpose"]):
            yield from _shard(run.store, run.spec, facts)


def _selections(run: StoredRun) -> list[Mapping[str, Any]]:
    """The last word on each shard that was selected from."""
    phases = list(dict.fromkeys(phase for phase, _ in run.shard_facts))
    places = sorted(run.shard_facts, key=lambda place: (phases.index(place[0]), place[1]))
    return [run.shard_facts[place] for place in places if run.shard_facts[place].get("selected")]


def _shard(store: Store, spec: RunSpec, facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    rows = partial(inspect_rows, store)
    templates = spec.config.prompt.templates
    rollouts = {(row.query, row.sample_index): row for row in rows(facts["rollout"], Rollout)}
    grades = {(row.query, row.sample_index): row for row in rows(facts["grades"], Grade)}
    for row in rows(facts["selected"], Selected):
        place, query = (row.query, row.sample_index), spec.by_hash[row.query]
        yield {
            "sample": f"{facts['purpose']}:{row.query_id}/{row.sample_index}",
            "query_id": row.query_id,
            "question": query.question,
            "prompt": templates.text(query),
            "system": templates.system,
            "choices": None if query.choices is None else list(query.choices),
            "images": [f"images/{sha}" for sha in query.images],
            "gold": None if query.unlabelled else query.answer,
            "response": rollouts[place].text,
            "answer": grades[place].extracted,
            "reward": row.reward,
            "policy": rollouts[place].policy,
            "tokens": len(row.token_ids),
        }
