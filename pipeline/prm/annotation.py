"""Annotation and judgement of a PRM as pure functions of stored rows.

What a run does (`pipeline.prm.tasks`) and what an audit derives again, from the same rows, so that
the two can be compared: the responses that are labelled, the rounds of completions, the step
values, and what the gate judges. Nothing here reads a store.

Axes: S steps of a response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import count
from typing import Any

from pipeline.hashing import canonical_json, key_of, sha256_hex
from pipeline.metrics.accuracy import image_groups
from pipeline.prm.agreement import agreement_card, shortfalls_within
from pipeline.prm.completions import CompletionSpec, completion_specs
from pipeline.prm.gate import Bar, Scored, card_of, right_by_labels, shortfalls
from pipeline.prm.labels import (
    Decode,
    Labelled,
    Picked,
    Prefix,
    Reached,
    Stop,
    Take,
    cost,
    held_out_queries,
    next_prefixes,
    pick,
    step_values,
)
from pipeline.query import Query
from pipeline.records import Rollout, Score, StepValues
from pipeline.refs import PRM_VALUES, PolicyRef, ShardSet
from pipeline.run.events.prm import LabelsMade
from pipeline.run.spec import RunSpec
from pipeline.run.state import ShardState

LABELS, CARD = "labels", "prm_card.json"


def stop_of(program: RunSpec) -> Stop:
    """Where labelling stops early."""
    if not program.config.prm.early_stop:
        return "never"
    return "any" if program.config.run.rules == 1 else "wrong"


def responses_to_label(
    program: RunSpec,
    rows: Sequence[Rollout],
    outcomes: Sequence[str],
    shards: Sequence[str],
    decode: Decode,
) -> tuple[list[Labelled], Picked]:
    """What is labelled of graded rollouts.

    rows, outcomes, shards: parallel, in plan order; shards: the path each row was read from.
    """
    prm, seed = program.config.prm, program.config.run.seed
    queries = [program.by_hash[name] for name in dict.fromkeys(row.query for row in rows)]
    return pick(
        rows,
        outcomes,
        shards,
        decode=decode,
        take=Take(prm.pairs, prm.held_out_responses),
        held_out=held_out_queries(queries, prm.held_out, seed),
        seed=seed,
    )


def round_of(
    program: RunSpec, policy: PolicyRef, number: int, wanted: Sequence[Prefix]
) -> tuple[CompletionSpec, ...]:
    """The shards of one round of completions; numbered by round."""
    config = program.config
    return completion_specs(
        ShardSet(PRM_VALUES, number),
        wanted,
        program.by_hash,
        policy=policy.version,
        sampling=program.sampling(config.prm.completions, config.prm.temperature),
        engine=program.engine,
        run_seed=config.run.seed,
        shard_queries=config.generate.shard_queries,
        templates=config.prompt.templates,
    )


def follow_rounds(
    program: RunSpec,
    policy: PolicyRef,
    responses: Sequence[Labelled],
    completed: Callable[[int, tuple[CompletionSpec, ...]], Mapping[Prefix, Reached] | None],
) -> tuple[dict[Prefix, Reached], int, tuple[CompletionSpec, ...]]:
    """Rounds of completions, followed as far as they are over.

    completed: what the completions of a round reached, by its number and shards; None: it is not
    over. Gives the values of all prefixes so far, and number and shards of the round that is to be
    sampled next; no shards: every prefix that matters has its value.
    """
    values: dict[Prefix, Reached] = {}
    for number in count():
        wanted = next_prefixes(responses, values, stop=stop_of(program))
        if not wanted:
            break
        specs = round_of(program, policy, number, wanted)
        reached = completed(number, specs)
        if reached is None:
            return values, number, specs
        values |= reached
    return values, number, ()


def valued_rows(
    program: RunSpec, responses: Iterable[Labelled], found: Mapping[Prefix, Reached]
) -> list[StepValues]:
    """The responses with the values of their steps (with `prm.shuffle_labels` of others); those
    with an unknown step are left out."""
    valued = (_valued(program, one, found) for one in responses)
    rows = [row for row in valued if row is not None]
    if program.config.prm.shuffle_labels:
        return shuffled_values(rows, program.config.run.seed)
    return rows


def shuffled_values(rows: Sequence[StepValues], seed: int) -> list[StepValues]:
    """The rows with the values of all steps that are trained on dealt out again at random, which
    says nothing about any step; held-out rows stay as they are."""
    steps = [
        pair
        for row in rows
        if not row.held_out
        for pair in zip(row.values, row.completions, strict=True)
    ]
    tickets = [sha256_hex(canonical_json(["shuffled", seed, n])) for n in range(len(steps))]
    dealt = iter([steps[n] for n in sorted(range(len(steps)), key=tickets.__getitem__)])
    return [row if row.held_out else _revalued(row, dealt) for row in rows]


def _revalued(row: StepValues, dealt: Iterator[tuple[float, int]]) -> StepValues:
    pairs = [next(dealt) for _ in row.values]
    values, completions = zip(*pairs, strict=True) if pairs else ((), ())
    return replace(row, values=tuple(values), completions=tuple(completions))


def _valued(program: RunSpec, one: Labelled, found: Mapping[Prefix, Reached]) -> StepValues | None:
    valued = step_values(one, found, stop=stop_of(program))
    if valued is None:
        return None
    return StepValues(
        query=one.query,
        query_id=one.query_id,
        sample_index=one.sample_index,
        rollout_shard=one.rollout_shard,
        prompt_sha256=one.prompt_sha256,
        prompt_tokens=one.prompt_tokens,
        correct=one.correct,
        held_out=one.held_out,
        token_ids=one.token_ids_T,
        step_ends=one.step_ends_S,
        values=valued[0],
        completions=valued[1],
    )


def labels_key(rows: Sequence[StepValues]) -> str:
    """Identity of a table of step values."""
    sources = [[row.rollout_shard, row.query, row.sample_index] for row in rows]
    return key_of(LABELS, {"rows": sources, "values": [row.values for row in rows]})


def labels_told(
    program: RunSpec,
    path: str,
    rows: Sequence[StepValues],
    counts: Picked,
    responses: Sequence[Labelled],
) -> LabelsMade:
    """The event that says that the step values lie at `path`."""
    held_out = sum(row.held_out for row in rows)
    return LabelsMade(
        path=path,
        trained=len(rows) - held_out,
        held_out=held_out,
        counts=(counts + Picked(unknown=len(responses) - len(rows))).to_dict(),
        cost=asdict(cost(responses, program.config.prm.completions)),
    )


# --- what the gate judges --------------------------------------------------------------------


def judged_places(labels: Iterable[StepValues]) -> tuple[tuple[str, int], ...]:
    """The responses that are scored for the gate, by query and sample index."""
    return tuple((row.query, row.sample_index) for row in labels if row.held_out)


def of_others(labels: Iterable[StepValues], shards: Iterable[ShardState]) -> bool:
    """Whether labels are of other responses than the shards hold now."""
    there = {shard.rollout for shard in shards}
    return any(row.rollout_shard not in there for row in labels)


def judged(
    queries: Mapping[str, Query], labels: Sequence[StepValues], scores: Iterable[Score]
) -> Iterator[Scored]:
    """Held-out responses with both their values and their scores; those that could not be scored
    are counted by `gate_card`."""
    score_of = {(score.query, score.sample_index): score for score in scores}
    apart = [row for row in labels if row.held_out]
    groups = image_groups([queries[row.query] for row in apart])
    for row, group in zip(apart, groups, strict=True):
        score = score_of.get((row.query, row.sample_index))
        if score is None:
            continue
        values_S = tuple(
            value if graded else None
            for value, graded in zip(row.values, row.completions, strict=True)
        )
        yield Scored(
            query=row.query,
            group=group,
            sample_index=row.sample_index,
            correct=row.correct,
            scores_S=score.step_scores,
            reward=score.reward_p,
            values_S=values_S,
            process_right=right_by_labels(row.values),
            completions_S=row.completions,
        )


def excluded_of(shards: Iterable[ShardState]) -> list[Mapping[str, int]]:
    """Of each shard how many responses have no score, by reason."""
    return [shard.choice.get("excluded", {}) for shard in shards]


def gate_card(
    program: RunSpec, scored: Sequence[Scored], excluded: Iterable[Mapping[str, int]]
) -> dict[str, Any]:
    """The PRM's card: `pipeline.prm.gate.card_of`, how many held-out responses have no score and,
    from version 2 of the decisions on, `pipeline.prm.agreement.agreement_card`.

    excluded: of each shard how many responses have none, by reason.
    """
    unscored: Counter[str] = Counter()
    for counts in excluded:
        unscored.update(counts)
    card = card_of(scored, seed=0) | {"unscored": dict(sorted(unscored.items()))}
    if program.config.run.rules == 1:
        return card
    how = program.config.prm.aggregate
    return card | agreement_card(scored, how, bar_of(program), seed=0)


def shortfalls_of(program: RunSpec, card: dict[str, Any]) -> list[str]:
    """Why the run's PRM is not to be used; empty when it may be."""
    bar = bar_of(program)
    across = program.config.run.rules == 1
    return shortfalls(card, bar) if across else shortfalls_within(card, bar)


def bar_of(program: RunSpec) -> Bar:
    """What the run's PRM must reach to be used."""
    prm = program.config.prm
    return Bar(prm.least_auc_step, prm.least_auc_within)
