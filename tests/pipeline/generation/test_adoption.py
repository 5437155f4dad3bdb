"""Which shard in the store may be taken for one's own: whole, verified, the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.generation.adoption import adoptable
from pipeline.generation.shards import ShardSpec
from pipeline.records import Rollout
from pipeline.simulation.small_trees import put_small_tree
from pipeline.simulation.workers import scripted_workers
from pipeline.storage.artifacts import put_content
from pipeline.storage.models import policy_at
from pipeline.storage.parquet import from_parquet, table_bytes, to_parquet, to_table
from pipeline.storage.store import Store, open_store
from tests.support.driving import Bench, result
from tests.support.scripted import make_config, make_program


@dataclass
class Shard:
    """A store, a shard's spec, and rows that were sampled for it."""

    store: Store
    spec: ShardSpec
    rows: list[Rollout]

    def put(self, rows: Sequence[Rollout], **changes: float) -> str:
        data = to_parquet([replace(row, **changes) for row in rows], Rollout)  # type: ignore[arg-type]
        return put_content(self.store, "rollout", self.spec.key, data, "parquet")

    def two(self) -> list[str]:
        """Two whole objects under the shard's key, as of engines that add in another order; the
        one with the smaller hash first."""
        nearly = [replace(row, logprobs=tuple(-1.25 for _ in row.token_ids)) for row in self.rows]
        return sorted([self.put(self.rows), self.put(nearly)])

    def adopted(self) -> str | None:
        found = adoptable(self.store, self.spec)
        return None if found is None else found.rollout


@pytest.fixture
def shard() -> Shard:
    store, program = open_store("memory://"), make_program(make_config())
    fleet = scripted_workers(store, program).fleet
    content = {"skill": 0.5, "trained": "nothing"}
    policy = policy_at(put_small_tree(store, "policies", "model.json", content))
    spec = program.evolve_specs(0, policy, 1.0)[0]
    fleet.submit(spec, policy)
    (done,) = fleet.mail.waiting
    rows = from_parquet(store.get(done.rollout), Rollout)
    store.delete(done.rollout)
    return Shard(store, spec, rows)


def test_nothing_is_there_nothing_is_adopted(shard: Shard) -> None:
    assert shard.adopted() is None


def test_of_two_whole_ones_the_smaller_hash_is_taken(shard: Shard) -> None:
    smaller, larger = shard.two()
    assert smaller < larger
    assert shard.adopted() == smaller
    found = adoptable(shard.store, shard.spec)
    assert found is not None
    assert (found.key, found.rows) == (shard.spec.key, len(shard.rows))
    assert found.tokens == sum(len(row.token_ids) for row in shard.rows)


@pytest.mark.parametrize("left", [b"", b"PAR1 and what follows it", None])
def test_a_corrupt_smaller_one_is_passed_over(shard: Shard, left: bytes | None) -> None:
    smaller, larger = shard.two()
    data = shard.store.get(smaller)
    shard.store.replace(smaller, data[:-1] if left is None else left)
    assert shard.adopted() == larger
    assert not shard.store.exists(smaller)  # it is in quarantine
    shard.store.replace(larger, b"this one, too")
    assert shard.adopted() is None


def without_one(rows: list[Rollout]) -> list[Rollout]:
    return rows[1:]


def one_twice(rows: list[Rollout]) -> list[Rollout]:
    return [*rows, rows[0]]


def a_query_less(rows: list[Rollout]) -> list[Rollout]:
    return [row for row in rows if row.query != rows[0].query]


def one_of_another(rows: list[Rollout]) -> list[Rollout]:
    return [*rows, replace(rows[0], query="f" * 64)]


@pytest.mark.parametrize("change", [without_one, one_twice, a_query_less, one_of_another])
def test_an_incomplete_or_strange_group_is_refused(
    shard: Shard, change: Callable[[list[Rollout]], list[Rollout]]
) -> None:
    shard.put(change(shard.rows))
    assert shard.adopted() is None
    whole = shard.put(shard.rows)
    assert shard.adopted() == whole


def of_another_version(rows: Sequence[Rollout]) -> bytes:
    table: pa.Table = to_table(rows, Rollout)
    label = {**table.schema.metadata, b"mstar.version": b"99"}
    return table_bytes(table.replace_schema_metadata(label))


def test_another_version_is_refused(shard: Shard) -> None:
    put_content(shard.store, "rollout", shard.spec.key, of_another_version(shard.rows), "parquet")
    assert shard.adopted() is None
    whole = shard.put(shard.rows)
    assert shard.adopted() == whole


def test_a_driver_samples_anew_what_it_must_not_adopt(tmp_path: Path) -> None:
    """Shards of another version under every key of its first evaluation change nothing."""
    config = make_config(evolve={"iterations": 1}, evaluate={"samples": 0})
    plain, other = Bench(tmp_path, config), Bench(tmp_path, config)
    plain.run()
    accepted = plain.of_type("shard_accepted")
    for event in accepted[:3]:
        rows = from_parquet(plain.store.get(event["rollout"]), Rollout)
        put_content(other.store, "rollout", event["key"], of_another_version(rows), "parquet")
    other.run()
    assert result(other) == result(plain)
    assert [event["rollout"] for event in other.of_type("shard_accepted")] == [
        event["rollout"] for event in accepted
    ]
