"""A PRM of shuffled labels: the same values, on steps that they say nothing about."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit.run import audit
from pipeline.config.fields import hashed_section
from pipeline.config.resume import config_hash
from pipeline.errors import BadConfig
from pipeline.prm.annotation import shuffled_values
from pipeline.records import StepValues
from pipeline.run.events.wire import replay
from pipeline.simulation.fleet import decode
from pipeline.storage.artifacts import read_rows
from tests.support.driving import Bench
from tests.support.scripted import prm_config

steps = st.lists(st.tuples(st.integers(0, 4).map(lambda n: n / 4), st.integers(1, 4)), max_size=6)


def row(number: int, pairs: list[tuple[float, int]], held_out: bool) -> StepValues:
    values, completions = tuple(one[0] for one in pairs), tuple(one[1] for one in pairs)
    ends = tuple(range(1, len(pairs) + 1))
    return StepValues(
        "q", "q", number, "shards", "0" * 64, 7, True, held_out, (1,) * 9, ends, values, completions
    )


@given(st.lists(st.tuples(steps, st.booleans()), max_size=8), st.integers(0, 9))
def test_shuffling_deals_the_same_values_out_again(
    drawn: list[tuple[list[tuple[float, int]], bool]], seed: int
) -> None:
    rows = [row(i, pairs, held_out) for i, (pairs, held_out) in enumerate(drawn)]
    found = shuffled_values(rows, seed)
    assert found == shuffled_values(rows, seed)

    def dealt(some: list[StepValues]) -> Counter[tuple[float, int]]:
        trained = [one for one in some if not one.held_out]
        return Counter(
            pair for one in trained for pair in zip(one.values, one.completions, strict=True)
        )

    assert dealt(found) == dealt(rows)
    for one, before in zip(found, rows, strict=True):
        assert replace(one, values=before.values, completions=before.completions) == before
        assert len(one.values) == len(before.values)
        assert one == before or not before.held_out


def test_a_run_trains_on_them_and_is_derived_again(tmp_path: Path) -> None:
    plain, shuffled = (
        Bench(tmp_path / str(flag), prm_config(shuffle_labels=flag)) for flag in (False, True)
    )
    rows: list[list[StepValues]] = []
    for bench in (plain, shuffled):
        bench.run()
        labels = replay(bench.events).labels
        assert labels is not None
        rows.append(read_rows(bench.store, labels["path"], StepValues))
        assert audit(bench.store, "scripted", lambda _: decode).problems == []
    trained = [[one for one in some if not one.held_out] for some in rows]
    assert rows[0] != rows[1]
    assert [one.values for one in trained[0]] != [one.values for one in trained[1]]
    assert [one for one in rows[0] if one.held_out] == [one for one in rows[1] if one.held_out]
    assert shuffled_values(rows[0], 0) == rows[1]


def test_its_gate_would_refuse_it_so_it_is_used_anyway() -> None:
    with pytest.raises(BadConfig, match=r"set prm.use_anyway=true"):
        prm_config(shuffle_labels=True, use_anyway=False)
    plain = prm_config()
    assert config_hash(plain) == config_hash(prm_config(shuffle_labels=False))
    assert config_hash(plain) != config_hash(prm_config(shuffle_labels=True))
    assert "shuffle_labels" not in hashed_section(plain, "prm"), "older PRMs keep their hash"
    assert hashed_section(prm_config(shuffle_labels=True), "prm")["shuffle_labels"] is True
