"""Selection from a graded shard: outcomes for the rule, and the selected rows as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.selecting import SCORED
from pipeline.hashing import key_of
from pipeline.prompts import PromptKind, leaks_gold, refers_to_gold
from pipeline.records import Grade, Rollout, Selected
from pipeline.responses import MOST_STEPS, finished_steps
from pipeline.selection.coverage import choice_report
from pipeline.selection.rules import Rule, candidates, eligible, own_score, select
from pipeline.storage.artifacts import SELECTED, put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store
from pipeline.tasks.processes import process_true

Place = tuple[str, int]
"""Query and sample index."""


def select_key(
    rollout: str, grades: str, rule: dict[str, object], seed: int, prompt: PromptKind
) -> str:
    """Identity of a selection: what it read and the parameters of its rule."""
    return key_of(
        "select",
        {"rollout": rollout, "grades": grades, "rule": rule, "seed": seed, "prompt": prompt},
    )


def choice_of(chosen_from: Sequence[Rollout], kept: Sequence[Rollout]) -> dict[str, Any]:
    """Steps are counted as a process reward model would: merged where there are too many."""
    steps = {
        (row.query, row.sample_index): min(MOST_STEPS, finished_steps(row.text))
        for row in chosen_from
    }
    return choice_report(chosen_from, kept, steps)


def outcomes_of(
    prompt: PromptKind, rows: Sequence[Rollout], grades: Sequence[Grade], rule: Rule | None
) -> list[str]:
    """For selection: a right warm-up chain that speaks of the answer it was given or (from version
    2 of the decisions on) states it first is `leaning`."""
    strict = rule is not None and rule.version > 1

    def leans(row: Rollout, grade: Grade) -> bool:
        text = row.text
        return leaks_gold(text, grade.extracted or "") if strict else refers_to_gold(text)

    return [
        "leaning"
        if prompt == "warmup" and grade.outcome == "correct" and leans(row, grade)
        else grade.outcome
        for row, grade in zip(rows, grades, strict=True)
    ]


@dataclass(frozen=True)
class Choice:
    """What a rule kept of graded rows.

    chosen_from: what it chose among. rewards: by query and sample index what it ranked by; None
    where it ranks by nothing.
    """

    chosen_from: list[Rollout]
    kept: list[Rollout]
    rewards: Mapping[Place, float] | None


def choose(
    rows: Sequence[Rollout],
    outcomes: Sequence[str],
    reward_of: Mapping[Place, float] | None,
    rule: Rule,
    seed: int,
) -> Choice:
    """Selection from graded rows, as a run, its audit and a replay do it.

    reward_of: R_p of the rows that were scored; None: nothing was. A rule that does not rank by a
    PRM chooses among all that is eligible, scored or not; by version 1 of the decisions one chose
    among what was scored, where anything was.
    """
    own = rule.name in SCORED and not rule.by_prm
    if rule.by == "checker" and own:
        chosen_from = eligible(rows, outcomes, rule)
        true = [float(process_true(row.query, row.text)) for row in chosen_from]
        kept = select(chosen_from, ["correct"] * len(true), true, rule, seed=seed)
        return Choice(chosen_from, kept, dict(zip(map(place_of, chosen_from), true, strict=True)))
    if reward_of is not None and not own and (rule.by_prm or rule.version == 1):
        scored = [row for row in candidates(rows, outcomes) if place_of(row) in reward_of]
        scored = eligible(scored, ["correct"] * len(scored), rule)
        rewards = [reward_of[place_of(row)] for row in scored]
        kept = select(scored, ["correct"] * len(scored), rewards, rule, seed=seed)
        return Choice(scored, kept, reward_of)
    kept = select(rows, outcomes, None, rule, seed=seed)
    ranked_by = None
    if own and rule.by != "random":
        ranked_by = {place_of(row): own_score(row, rule.by) for row in kept}
    return Choice(eligible(rows, outcomes, rule), kept, ranked_by)


def place_of(row: Rollout) -> Place:
    """Query and sample index."""
    return row.query, row.sample_index


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
