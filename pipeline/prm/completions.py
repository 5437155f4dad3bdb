"""Shards of Monte-Carlo completions: the same units of generation as any other, but for prefixes.

A completion shard asks, of each of its queries, N samples from every one of some prefixes of
sampled ids. It is generated, graded, stored, adopted and audited as a rollout shard is: its rows
are rollouts whose `token_ids` follow the prefix and whose `text` includes it. Sample indices number
a query's completions through, prefix by prefix, so that whole groups can be checked.

Axes: Q queries of a shard, P prefixes of a query, N completions of a prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.generation.shards import (
    SEED_BITS,
    EngineIdentity,
    SamplePart,
    SamplingParams,
    ShardSpec,
)
from pipeline.hashing import canonical_json, key_of, sha256_hex
from pipeline.prm.labels import Prefix, Reached
from pipeline.prompts import PromptTemplates
from pipeline.query import Query
from pipeline.records import Grade, Rollout
from pipeline.storage.parquet import read_table

# Changing how seeds are made changes every completion: the rule's name is part of every key.
SEED_RULE = "sha256-prefix/62"


@dataclass(frozen=True)
class CompletionSpec(ShardSpec):
    """A shard of completions; `sampling.samples` is N. prefixes_Q_P: sampled ids, by query."""

    prefixes_Q_P: tuple[tuple[tuple[int, ...], ...], ...] = ()

    @cached_property
    def key(self) -> str:
        """As of any shard, with the prefixes."""
        return key_of(
            "complete",
            {
                "policy": self.policy,
                "queries": self.queries_Q,
                "prompt": self.prompt_sha256,
                "prefixes": self.prefixes_Q_P,
                "sampling": self.sampling.identity,
                "engine": self.engine.identity,
                "seeds": [SEED_RULE, self.run_seed],
            },
        )

    @cached_property
    def _prefixes(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        return dict(zip(self.queries_Q, self.prefixes_Q_P, strict=True))

    @property
    def rows(self) -> int:
        """Completions in the shard."""
        return sum(self.samples_of(query) for query in self.queries_Q)

    def samples_of(self, query: str) -> int:
        """Completions of one query."""
        return self.sampling.samples * len(self._prefixes[query])

    def parts(self, query: str) -> list[SamplePart]:
        """For each prefix its first sample index, its ids and a seed for each completion."""
        n = self.sampling.samples
        return [
            SamplePart(place * n, prefix, tuple(self._seed(query, prefix, i) for i in range(n)))
            for place, prefix in enumerate(self._prefixes[query])
        ]

    def _seed(self, query: str, prefix: tuple[int, ...], number: int) -> int:
        """62 bits that depend on the prefix itself, not on where in which shard it stands."""
        digest = sha256_hex(canonical_json([self.run_seed, self.policy, query, prefix, number]))
        return int(digest[:16], 16) >> (64 - SEED_BITS)


def completion_specs(
    purpose: str,
    prefixes: Sequence[Prefix],
    queries: Mapping[str, Query],
    *,
    policy: str,
    sampling: SamplingParams,
    engine: EngineIdentity,
    run_seed: int,
    shard_queries: int,
    templates: PromptTemplates,
) -> tuple[CompletionSpec, ...]:
    """The shards of these prefixes, grouped by query in order of first appearance."""
    groups: dict[str, list[tuple[int, ...]]] = {}
    for prefix in prefixes:
        groups.setdefault(prefix.query, []).append(prefix.token_ids_T)
    names = list(groups)
    specs = []
    for index, start in enumerate(range(0, len(names), shard_queries)):
        part_Q = names[start : start + shard_queries]
        specs.append(
            CompletionSpec(
                purpose=purpose,
                index=index,
                policy=policy,
                queries_Q=tuple(part_Q),
                prompt="question",
                templates=templates,
                prompt_sha256=templates.hash_of([templates.text(queries[name]) for name in part_Q]),
                sampling=sampling,
                engine=engine,
                run_seed=run_seed,
                prefixes_Q_P=tuple(tuple(groups[name]) for name in part_Q),
            )
        )
    return tuple(specs)


def cut_places(rollouts: bytes) -> frozenset[tuple[str, int]]:
    """The completions of a stored shard that the length limit cut, by query and sample index.

    Raises as `read_table`. Only what says so is read: there are far more completions than
    responses.
    """
    table = read_table(rollouts, Rollout, ("query", "sample_index", "finish"))
    return frozenset(
        (query, index)
        for query, index, finish in zip(*(column.to_pylist() for column in table), strict=True)
        if finish != "stop"
    )


def reached(
    spec: CompletionSpec, grades: Iterable[Grade], cut: Collection[tuple[str, int]]
) -> dict[Prefix, Reached]:
    """For each prefix of a shard, how many of its completions reached the gold answer.

    A grader that ran out of time says nothing: its item is left out (paper section 7, trap 9). A
    completion that was cut (`cut_places`) did not get to its end, so it reached nothing, whatever
    its unfinished answer reads like (trap 10). A query that could not be sampled has no rows, and
    its prefixes count none.
    """
    places = {query: spec.parts(query) for query in spec.queries_Q}
    counts = {
        Prefix(query, part.prefix): [0, 0] for query, parts in places.items() for part in parts
    }
    for grade in grades:
        part = places[grade.query][grade.sample_index // spec.sampling.samples]
        if grade.outcome != "timeout":
            count = counts[Prefix(grade.query, part.prefix)]
            whole = (grade.query, grade.sample_index) not in cut
            count[0] += whole and grade.outcome == "correct"
            count[1] += 1
    return {prefix: Reached(right, graded) for prefix, (right, graded) in counts.items()}
