"""Adoption of a complete, verified rollout shard that this run's ledger does not name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.errors import ArtifactLost
from pipeline.generation.fleet import ShardDone
from pipeline.generation.shards import ShardSpec
from pipeline.records import Rollout
from pipeline.storage.artifacts import ROLLOUTS, read_rows
from pipeline.storage.parquet import RecordError
from pipeline.storage.store import Store


def group_problem(
    rows: Sequence[Rollout], queries_Q: Sequence[str], samples: int | Mapping[str, int]
) -> str | None:
    """Why these rows are not the whole groups of these queries; None when they are.

    samples: rows of each query, or of each by query.
    """
    counts = {q: samples if isinstance(samples, int) else samples[q] for q in queries_Q}
    want = {(query, index) for query, count in counts.items() for index in range(count)}
    have = [(row.query, row.sample_index) for row in rows]
    if len(have) != len(set(have)):
        return "it holds a sample twice"
    missing, strange = want - set(have), set(have) - want
    if missing or strange:
        return f"{len(missing)} samples are missing and {len(strange)} belong elsewhere"
    return None


def adoptable(store: Store, spec: ShardSpec) -> ShardDone | None:
    """A complete rollout of this very shard that is in the store and in no ledger of this run.

    Another run made it, or a worker whose driver died before the event. The smallest hash wins; one
    that is damaged, incomplete or of another version is passed over.
    """
    for path in store.list(f"shards/{ROLLOUTS}/{spec.key}"):
        try:
            rows = read_rows(store, path, Rollout)
        except (ArtifactLost, RecordError):
            continue
        counts = {query: spec.samples_of(query) for query in spec.queries_Q}
        if group_problem(rows, spec.queries_Q, counts) is None:
            tokens = sum(len(row.token_ids) for row in rows)
            return ShardDone(spec.key, path, len(rows), tokens, 0.0)
    return None
