"""Selection from a graded shard: outcomes for the rule, and the selected rows as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.hashing import key_of
from pipeline.prompts import PromptKind, refers_to_gold
from pipeline.records import Grade, Rollout, Selected
from pipeline.responses import MOST_STEPS, finished_steps
from pipeline.selection.coverage import choice_report
from pipeline.storage.artifacts import SELECTED, put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store


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
