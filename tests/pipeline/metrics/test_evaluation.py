"""Pass@K of graded samples: a truncated response counts in none of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.metrics.evaluation import measure_sampled
from pipeline.query import Query
from pipeline.records import Grade, Rollout
from pipeline.run.events.wire import replay
from pipeline.run.state import SAMPLED
from pipeline.storage.artifacts import read_rows
from tests.support.driving import Bench
from tests.support.scripted import make_config

COUNTS = {"cut": 1, "samples": 4, "unparsed": 0, "timeout": 0}


def test_a_truncated_response_that_reads_like_a_right_one_passes_nothing() -> None:
    asked = [Query(f"q{i}", (), f"{i}?", None, "1", "number") for i in range(2)]
    one, two = (query.content_hash for query in asked)
    grades = [Grade(one, 0, "correct", "1"), Grade(one, 1, "wrong", "2"),
              Grade(two, 0, "wrong", "3"), Grade(two, 1, "correct", "1")]  # fmt: skip
    found = measure_sampled(asked, grades, COUNTS, 2)
    assert found["pass_at"]["2"]["value"] == 1.0
    found = measure_sampled(asked, grades, COUNTS, 2, {(one, 0)})
    assert found["pass_at"]["1"]["value"] == pytest.approx(0.25)
    assert found["pass_at"]["2"]["value"] == 0.5


@pytest.mark.parametrize("rules", [1, 2])
def test_a_run_counts_none_by_the_decisions_of_today(rules: int, tmp_path: Path) -> None:
    """Scripted responses that are longer than the limit are truncated after their answer."""
    bench = Bench(tmp_path, make_config(run={"name": "scripted", "rules": rules}))
    bench.run()
    state = replay(bench.events)
    for event in bench.of_type("evaluated"):
        if event["mode"] != SAMPLED:
            continue
        shards = [e for e in bench.of_type("shard_accepted") if e["purpose"] == event["purpose"]]
        ended = {
            (row.query, row.sample_index): row.finish == "stop"
            for shard in shards
            for row in read_rows(bench.store, shard["rollout"], Rollout)
        }
        passed: dict[str, bool] = {}
        for path in event["grades"]:
            for grade in read_rows(bench.store, path, Grade):
                counts = rules == 1 or ended[grade.query, grade.sample_index]
                hit = counts and grade.outcome == "correct"
                passed[grade.query] = passed.get(grade.query, False) or hit
        share = sum(passed.values()) / len(passed)
        assert event["result"]["pass_at"]["2"]["value"] == pytest.approx(share)
    assert state.finished is not None
