"""What `make chaos` is made of: its plan, its proxy, its watch over a run, its victims."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.s3 import LocalS3
from cluster.s3_proxy import S3Proxy, Seen, Verdict
from jobs.chaos.plan import STAGES, WINDOWS, Kill, plan, stage_of, window_of
from jobs.chaos.runs import ChaosFailed, meaning, without_a_selection
from jobs.chaos.watch import Watch
from pipeline.errors import StoreUnavailable
from pipeline.storage.store import Store, open_store
from tests.support.s3_servers import BUCKET, aws_environment
from tests.support.waiting import until

# --- the plan -------------------------------------------------------------------------------------


def test_the_plan_holds_every_stage_and_victim_and_every_window() -> None:
    kills = plan(0)
    assert 25 <= len(kills) == len(set(kills)) <= 50
    pairs = [(one.stage, one.victim) for one in kills if one.stage]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {(stage, victim) for stage, some in STAGES.items() for victim in some}
    assert {one.window for one in kills if one.window} == set(WINDOWS)
    assert {one.victim for one in kills} == {
        "driver", "generator", "grader", "rank", "raylet", "scorer", "store",
    }  # fmt: skip


def test_the_plan_is_a_function_of_its_seed() -> None:
    assert plan(3) == plan(3)
    assert plan(3) != plan(4)
    few = plan(3, 5)
    assert len(few) == 5
    assert len({one.window or one.victim for one in few}) == 5


# --- the proxy ------------------------------------------------------------------------------------


@contextmanager
def through_proxy(folder: Path, **options: Any) -> Iterator[tuple[S3Proxy, LocalS3, Store]]:
    with (
        LocalS3(folder / "s3", bucket=BUCKET) as server,
        S3Proxy(server.endpoint, **options) as proxy,
        aws_environment(server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint}),
    ):
        yield proxy, server, open_store(f"s3://{BUCKET}/x", 0.5, say=lambda line: None)


def test_a_store_works_through_the_proxy_and_every_request_is_seen(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str, int]] = []

    def hook(one: Seen) -> Verdict:
        seen.append((one.method, one.path, one.moment, one.status))
        return "pass"

    with through_proxy(tmp_path, hook=hook) as (_, _, store):
        store.put("a/b c+d", b"data" * 100)
        assert store.get("a/b c+d") == b"data" * 100
        assert store.list() == ["a/b c+d"]
        store.delete("a/b c+d")
        assert not store.exists("a/b c+d")
    assert ("PUT", f"{BUCKET}/x/a/b c+d", "before", 0) in seen
    assert ("PUT", f"{BUCKET}/x/a/b c+d", "after", 200) in seen
    assert ("HEAD", f"{BUCKET}/x/a/b c+d", "after", 404) in seen


@pytest.mark.parametrize("verdict", ["cut", "drop"])
def test_an_object_that_is_cut_on_its_way_is_not_there(tmp_path: Path, verdict: Verdict) -> None:
    def hook(one: Seen) -> Verdict:
        return verdict if one.method == "PUT" and one.moment == "before" else "pass"

    with through_proxy(tmp_path, hook=hook) as (proxy, _, store):
        with pytest.raises(StoreUnavailable):
            store.put("object", b"x" * 200_000)
        assert store.list() == []
        proxy.hook = lambda one: "pass"
        store.put("object", b"x" * 200_000)
        assert store.get("object") == b"x" * 200_000


def test_a_server_that_died_gives_no_answer_and_another_one_does(tmp_path: Path) -> None:
    with through_proxy(tmp_path) as (_, server, store):
        store.put("object", b"x")
        server.stop(kill=True)
        with pytest.raises(StoreUnavailable):
            store.get("object")
        server.start()
        assert store.get("object") == b"x"


def test_latency_is_added_to_every_request(tmp_path: Path) -> None:
    with through_proxy(tmp_path, latency_s=0.2) as (_, _, store):
        begun = time.monotonic()
        store.replace("object", b"x")
        assert time.monotonic() - begun >= 0.2


# --- the watch ------------------------------------------------------------------------------------


def entry(n: int, *events: dict[str, Any]) -> Seen:
    body = json.dumps({"events": events}).encode()
    return Seen("PUT", f"b/run/runs/chaos/ledger/{n:010d}.json", body, "after", 200)


def accepted(key: str, purpose: str = "evolve/0") -> dict[str, Any]:
    path = f"shards/rollout/{key}/x.parquet"
    return {"type": "shard_accepted", "purpose": purpose, "key": key, "rollout": path}


class Struck:
    """Records what was struck; `at_work` says whether there is anybody."""

    def __init__(self) -> None:
        self.kills: list[Kill] = []
        self.at_work = True

    def __call__(self, one: Kill) -> int | None:
        if not self.at_work:
            return None
        self.kills.append(one)
        return 100 + len(self.kills)


def test_a_victim_is_struck_in_its_stage_one_at_a_time() -> None:
    struck = Struck()
    kills = [Kill("evolve/generate", "grader"), Kill("evolve/generate", "driver"),
             Kill("evolve/learn", "rank")]  # fmt: skip
    watch = Watch(kills, "b/run", struck)
    watch(entry(3, accepted("k", "warmup")))
    assert struck.kills == []
    watch(entry(4, accepted("k")))
    until(lambda: len(watch.records) == 1)
    watch(entry(5, accepted("l")))
    until(lambda: len(watch.records) == 2)
    watch.new_life()
    watch(entry(6, {"type": "driver_started"}))
    watch(entry(7, {"type": "checkpoint_saved", "job": "evolve/0"}))
    until(lambda: len(watch.records) == 3)
    watch(entry(8, accepted("m")))
    found = [(one.stage, one.victim, one.pid, one.position) for one in watch.records]
    assert found == [
        ("evolve/generate", "grader", 101, 4),
        ("evolve/generate", "driver", 102, 5),
        ("evolve/learn", "rank", 103, 7),
    ]
    assert watch.pending == []
    assert all(one.next_shard_s is not None for one in watch.records)


def test_a_victim_that_is_not_at_work_is_struck_later() -> None:
    struck = Struck()
    struck.at_work = False
    watch = Watch([Kill("evaluate", "generator")], "b/run", struck)
    watch(entry(1, accepted("k", "evaluate/policy-1/test/greedy")))
    until(lambda: not watch._busy)  # it has looked for the victim
    assert watch.records == []
    struck.at_work = True
    watch(entry(2, accepted("l", "evaluate/policy-1/test/greedy")))
    until(lambda: len(watch.records) == 1)


def test_windows_are_cut_or_dropped_where_they_are() -> None:
    window = "after a checkpoint's event, before the old one's delete"
    watch = Watch(
        [Kill("", "driver", window), Kill("", "driver", "mid-snapshot")], "b/run", Struck()
    )
    snapshot = Seen("PUT", "b/run/runs/chaos/snapshots/0000000003.json", b"{}", "before")
    assert watch(snapshot) == "pass"  # nothing has happened yet
    watch(entry(3, {"type": "checkpoint_saved", "job": "warmup/0"}))
    delete = Seen("DELETE", "b/run/checkpoints/k/h.manifest.json", b"", "before")
    assert watch(delete) == "drop"
    assert watch(snapshot) == "pass"  # one at a time
    watch(entry(4, {"type": "checkpoint_saved", "job": "warmup/0"}))
    assert watch(snapshot) == "pass"  # nor in a life that has ended
    watch.new_life()
    watch(entry(5, {"type": "driver_started"}))
    assert watch(snapshot) == "cut"
    assert [one.stage for one in watch.records] == ["warmup/learn", "warmup/learn"]


@pytest.mark.parametrize(("victim", "ends"), [("raylet", True), ("generator", False)])
def test_whoever_is_left_of_a_life_that_ends_is_not_struck(victim: str, ends: bool) -> None:
    struck = Struck()
    watch = Watch([Kill("evaluate", victim), Kill("evaluate", "grader")], "b/run", struck)
    purpose = "evaluate/policy-1/test/greedy"
    watch(entry(1, accepted("k", purpose)))
    until(lambda: len(watch.records) == 1)
    watch(entry(2, accepted("l", purpose)))
    if ends:
        time.sleep(0.1)
    else:
        until(lambda: len(watch.records) == 2)
    assert [one.victim for one in watch.records] == ([victim] if ends else [victim, "grader"])
    watch.new_life()
    watch(entry(3, accepted("m", purpose)))
    until(lambda: len(watch.records) == 2)


def test_a_shard_that_is_made_twice_is_noticed() -> None:
    watch = Watch([], "b/run", Struck())
    ask = Seen("HEAD", "b/run/shards/rollout/k/x.parquet", b"", "before")
    watch(ask)
    watch(entry(1, accepted("k")))
    assert watch.again == []
    watch(entry(2, {"type": "object_lost", "path": "shards/rollout/k/x.parquet"}))
    watch(ask)
    assert watch.again == []
    watch(entry(3, accepted("k")))
    watch(Seen("GET", "b/run/shards/rollout/k/x.parquet", b"", "before"))
    assert watch.again == []
    watch(ask)
    assert watch.again == ["k"]


def test_a_window_that_belongs_to_a_stage_is_met_in_it() -> None:
    kills = [
        Kill("control/learn", "driver", "after a checkpoint's event, before the old one's delete"),
        Kill("score", "driver", "after scores' upload, before their event"),
    ]
    watch = Watch(kills, "b/run", Struck())
    delete = Seen("DELETE", "b/run/checkpoints/k/h.manifest.json", b"", "before")
    scores = Seen("PUT", "b/run/shards/score/k/x.parquet", b"", "after", 200)
    watch(entry(3, {"type": "checkpoint_saved", "job": "warmup/0"}))
    assert watch(delete) == "pass"
    watch(entry(4, accepted("k")))  # generated while others are scored
    assert watch(scores) == "drop"
    watch.new_life()
    watch(entry(5, {"type": "checkpoint_saved", "job": "control/0"}))
    assert watch(delete) == "drop"
    assert [one.stage for one in watch.records] == ["score", "control/learn"]


def test_of_the_stages_of_one_entry_any_sets_off_a_kill() -> None:
    watch = Watch([Kill("score", "scorer")], "b/run", Struck())
    watch(entry(1, accepted("k"), graded("evolve/0", None), accepted("l")))
    until(lambda: len(watch.records) == 1)
    assert watch.records[0].stage == "score"


def graded(purpose: str, selected: str | None, **more: Any) -> dict[str, Any]:
    return {"type": "shard_graded", "purpose": purpose, "index": 1, "selected": selected, **more}


def test_stages_and_windows_are_told_apart() -> None:
    assert stage_of({"type": "shard_accepted", "purpose": "warmup"}) == "warmup/generate"
    assert stage_of({"type": "shard_accepted", "purpose": "prm/values/3"}) == "prm/annotate"
    assert stage_of({"type": "checkpoint_saved", "job": "control/1"}) == "control/learn"
    assert stage_of({"type": "checkpoint_saved", "job": "prm/0"}) == "prm/learn"
    assert stage_of(graded("evolve/1", None)) == "score"
    assert stage_of(graded("evolve/1", "shards/select/k/x.parquet")) == ""
    assert stage_of(graded("prm/rollouts", None)) == ""
    assert stage_of({"type": "shard_scored", "purpose": "prm/rollouts"}) == "score"
    assert stage_of({"type": "finished"}) == ""
    assert window_of("GET", "shards/rollout/k/x", 0, "before", 0) == ""
    assert window_of("PUT", "shards/rollout/k/x", 9, "before", 0) == "mid-PUT of a shard"
    assert window_of("PUT", "shards/rollout/k/x", 9, "after", 500) == ""
    assert window_of("PUT", "checkpoints/k/h/part", 10, "before", 0) == ""
    for kind in ("rollout", "labels", "score"):
        assert window_of("PUT", f"shards/{kind}/k/x", 9, "after", 200) in WINDOWS
    assert window_of("PUT", "shards/grade/k/x", 9, "after", 200) == ""


def test_what_a_run_means_is_rows_weights_and_moments_and_what_its_prm_says() -> None:
    done = {
        "type": "job_done",
        "job": "evolve/0",
        "policy": {"path": "policies/p"},
        "checkpoint": {"sha256": "c"},
    }
    scored = {
        "type": "shard_scored",
        "stage": "evolve/1/generate",
        "purpose": "evolve/1",
        "index": 1,
        "scores": "r",
        "selected": "t",
    }
    told = [
        graded("evolve/0", "s"),
        graded("evolve/1", None),
        scored,
        {"type": "labels_made", "path": "l"},
        {"type": "prm_judged", "path": "policies/prm"},
        done,
    ]
    assert meaning(told) == {
        "selected": {"evolve/0 1": "s", "evolve/1 1": "t"},
        "weights": {"evolve/0": "policies/p"},
        "moments": {"evolve/0": "c"},
        "labels": ["l"],
        "prm": ["policies/prm"],
        "scores": {"evolve/1/generate evolve/1 1": "r"},
    }


# --- the control ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shard_graded", "shard_scored"])
def test_the_control_drops_the_first_selection_that_holds_anything(kind: str) -> None:
    def one(purpose: str, selected: str | None, kept: int) -> dict[str, Any]:
        return graded(purpose, selected, coverage={"kept": kept, "samples": 8}) | {"type": kind}

    events = [
        one("warmup", "w", 3),
        graded("evolve/0", None, coverage={"kept": 0}),  # it waits for its scores
        one("evolve/0", "a", 0),
        one("evolve/0", "b", 2),
        one("evolve/0", "c", 2),
        {"type": "sampling_closed", "purpose": "evolve/0"},
        {"type": "job_done", "job": "evolve/0"},
    ]
    told = without_a_selection(events, "nothing")
    chosen = [event["selected"] for event in told if event["type"] == kind]
    assert [path for path in chosen if path] == ["w", "a", "nothing", "c"]
    assert told[3]["coverage"] == {"kept": 0, "samples": 8}
    assert told[-1] == events[-2]
    with pytest.raises(ChaosFailed, match="nothing to drop"):
        without_a_selection(events[:3], "nothing")
