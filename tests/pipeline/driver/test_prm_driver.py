"""The process reward model in the loop: annotated, trained, judged, and used from the start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.run import audit
from pipeline.config.schema import Config
from pipeline.errors import RunStopped
from pipeline.generation.shards import ShardSpec
from pipeline.records import Grade, Rollout, Score, Selected, StepValues
from pipeline.refs import PolicyRef
from pipeline.run.events.wire import replay
from pipeline.storage.artifacts import read_rows
from tests.support.driving import result
from tests.support.scripted import Crash, make_config
from tests.support.scripted_prm import PrmBench, after_commits, card_in, decode


def prm_config(**prm: Any) -> Config:
    settings = {"samples": 6, "completions": 3, "pairs": 2, "held_out": 0.3, **prm}
    return make_config(
        select={"rule": "top_k", "k": 1, "reward": "prm"}, prm=settings, generate={"samples": 6}
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PrmBench:
    bench = PrmBench(tmp_path_factory.mktemp("plain"), prm_config())
    bench.driver().run()
    return bench


def stages(bench: PrmBench) -> list[str]:
    """The stages in the order in which they first appear."""
    return list(dict.fromkeys(event["stage"] for event in bench.events))


def test_the_prm_is_built_after_the_warm_up_and_before_the_first_iteration(
    plain: PrmBench,
) -> None:
    order = [stage for stage in stages(plain) if not stage.startswith(("base", "final"))]
    mine = ["prm/generate", "prm/annotate", "prm/learn", "prm/judge"]
    start = order.index("prm/generate")
    assert order[start : start + 4] == mine
    assert order[start - 1] == "warmup/evaluate"
    assert order[start + 4] == "evolve/0/generate"


def test_values_are_shares_of_completions_of_sampled_prefixes(plain: PrmBench) -> None:
    (made,) = plain.of_type("labels_made")
    rows = read_rows(plain.store, made["path"], StepValues)
    assert made["trained"] + made["held_out"] == len(rows)
    assert {row.held_out for row in rows} == {True, False}
    rollouts: dict[tuple[str, tuple[int, ...]], list[bool]] = {}
    lucky = 0
    for event in plain.of_type("shard_accepted"):
        if not event["purpose"].startswith("prm/values"):
            continue
        (graded,) = [
            other
            for other in plain.of_type("shard_graded")
            if (other["purpose"], other["index"]) == (event["purpose"], event["index"])
        ]
        outcomes = {
            (g.query, g.sample_index): g.outcome
            for g in read_rows(plain.store, graded["grades"], Grade)
        }
        for row in read_rows(plain.store, event["rollout"], Rollout):
            whole = tuple(row.text.encode())
            prefix = whole[: len(whole) - len(row.token_ids)]
            hit = outcomes[row.query, row.sample_index] == "correct" and row.finish == "stop"
            lucky += outcomes[row.query, row.sample_index] == "correct" and row.finish == "length"
            rollouts.setdefault((row.query, prefix), []).append(hit)
    assert all(len(hits) == 3 for hits in rollouts.values())
    assert lucky, "a cut completion whose answer reads right counts as wrong"
    measured = 0
    for row in rows:
        for end, value, graded_n in zip(row.step_ends, row.values, row.completions, strict=True):
            if graded_n:
                hits = rollouts[row.query, row.token_ids[:end]]
                assert value == sum(hits) / 3
                measured += 1
            else:
                assert value == 0.0
        assert decode(row.token_ids[: row.step_ends[0]]).endswith("\n\n")
    assert measured > 20


def test_what_annotation_costs_is_said_before_its_first_completion(tmp_path: Path) -> None:
    bench = PrmBench(tmp_path, prm_config())
    driver = bench.driver()
    submit = bench.fleet.submit

    def stop(spec: ShardSpec, policy: PolicyRef) -> None:
        if spec.purpose.startswith("prm/values/"):
            raise Crash
        submit(spec, policy)

    bench.fleet.submit = stop  # type: ignore[method-assign]
    with pytest.raises(Crash):
        driver.run()
    (told,) = [line for line in bench.watch.said if line.startswith("annotation:")]
    assert "prefixes; at most" in told


def test_selections_keep_the_right_response_with_the_highest_reward(plain: PrmBench) -> None:
    scored = [e for e in plain.of_type("shard_scored") if e["purpose"].startswith("evolve/")]
    assert scored
    kept = 0
    for event in scored:
        scores = {
            (s.query, s.sample_index): s for s in read_rows(plain.store, event["scores"], Score)
        }
        for row in read_rows(plain.store, event["selected"], Selected):
            reward = scores[row.query, row.sample_index].reward_p
            assert row.reward == reward
            others = [s.reward_p for s in scores.values() if s.query == row.query]
            assert reward == max(others)
            kept += 1
        assert event["coverage"]["kept"] == event["choice"]["kept"]["responses"]
        assert sum(part["responses"] for part in event["choice"].values()) == len(scores)
    assert kept > 10
    for event in plain.of_type("iteration_closed"):
        choice = event["row"]["choice"]
        assert choice["kept"]["responses"] == event["row"]["kept"]
        assert choice["kept"]["steps"] == 2.0
        assert choice["excluded"] == {}
    for event in plain.of_type("shard_graded"):
        assert event["purpose"] == "warmup" or event["selected"] is None


def test_only_right_responses_are_scored_unless_all_are_wanted(
    plain: PrmBench, tmp_path: Path
) -> None:
    asked = {(row.query, row.sample_index) for _, rows in plain.scorer.asked for row in rows}
    right = {
        (g.query, g.sample_index)
        for event in plain.of_type("shard_graded")
        if event["purpose"].startswith(("evolve/", "prm/rollouts"))
        for g in read_rows(plain.store, event["grades"], Grade)
    }
    assert asked <= right
    more = PrmBench(tmp_path, prm_config(scoring="all"))
    more.driver().run()
    assert sum(len(rows) for _, rows in more.scorer.asked) > len(asked)
    assert any(e["purpose"].startswith("evaluate/") for e in more.of_type("shard_scored"))
    told = [e["result"] for e in more.of_type("evaluated") if "reward_pass_2" in e["result"]]
    assert told
    for one in told:
        # Of two samples, both are among the best two.
        assert one["reward_pass_2"]["value"] == one["pass_at"]["2"]["value"]
        assert one["reward_pass_2"]["value"] <= one["reward_pass_2_distinct"]["value"]


def test_the_card_lies_in_the_prms_folder(plain: PrmBench, tmp_path: Path) -> None:
    state = replay(plain.events)
    card = json.loads(card_in(plain.store, state.policies["prm"], tmp_path / "prm"))
    assert card["shortfalls"] == []
    assert card["gate"]["auc_step"]["value"] > 0.6
    assert card["labels"]["cost"]["rollouts"] > 0
    assert state.prm is not None
    assert state.prm["used"]
    assert any("annotation:" in line and "rollouts" in line for line in plain.watch.said)


def test_responses_that_are_too_long_to_score_are_counted_everywhere(tmp_path: Path) -> None:
    """Held out for the gate, or right and not selected; scored by the other engine."""
    bench = PrmBench(tmp_path, prm_config(engine="transformers"))
    bench.longest = len("a0\n\nb0\n\n# Answer\n\n7")  # answers of two characters are too long
    state = bench.driver().run()
    assert state.prm is not None
    assert state.labels is not None
    card = state.prm["card"]
    assert card["unscored"]["too_long"] > 0
    assert card["responses"] + card["unscored"]["too_long"] == state.labels["held_out"]
    choices = [row["choice"] for row in state.iterations]
    assert sum(choice["excluded"].get("too_long", 0) for choice in choices) > 0
    for event in bench.of_type("shard_scored"):
        if event["selected"]:
            kept = read_rows(bench.store, event["selected"], Selected)
            assert all(len(row.token_ids) <= bench.longest for row in kept)
    assert audit(bench.store, bench.config.run.name, lambda policy: decode).problems == []


def test_a_prm_below_the_bar_is_not_used_unless_told_so(tmp_path: Path) -> None:
    bench = PrmBench(tmp_path / "blind", prm_config())
    bench.quality = 0.0
    state = bench.driver().run()
    assert state.prm is not None
    assert not state.prm["used"]
    assert "prm.least_auc_step" in state.prm["reasons"][0]
    assert not [e for e in bench.of_type("shard_scored") if e["purpose"].startswith("evolve/")]
    drawn = [e for e in bench.of_type("shard_graded") if e["purpose"].startswith("evolve/")]
    assert all(event["coverage"]["kept"] <= 2 for event in drawn)  # one each of two queries
    for event in drawn:
        kept, dropped = event["choice"]["kept"], event["choice"]["dropped"]
        assert kept["responses"] == event["coverage"]["kept"]
        assert kept["responses"] + dropped["responses"] == event["coverage"]["candidates"]
        assert kept["steps"] == 2 * kept["responses"], "as many as in the scripted responses"
    for row in state.iterations:
        assert row["choice"]["kept"]["responses"] == row["kept"]
        assert row["choice"]["dropped"]["steps"] in (2.0, None)
    assert any("drawn by lot" in line for line in bench.watch.said)
    told = PrmBench(tmp_path / "told", prm_config(use_anyway=True))
    told.quality = 0.0
    state = told.driver().run()
    assert state.prm is not None
    assert state.prm["used"]
    assert [e for e in told.of_type("shard_scored") if e["purpose"].startswith("evolve/")]


def test_a_prm_of_the_users_own_skips_the_building(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "model.json").write_text("{}")
    bench = PrmBench(tmp_path / "run", prm_config(path=str(folder)))
    state = bench.driver().run()
    assert not bench.of_type("labels_made")
    assert state.prm is None
    assert [e for e in bench.of_type("shard_scored") if e["purpose"].startswith("evolve/")]


def test_questions_that_are_never_mixed_end_the_run_with_a_reason(tmp_path: Path) -> None:
    bench = PrmBench(tmp_path, prm_config(queries=2, samples=2))
    with pytest.raises(RunStopped, match=r"too few to train.*select\.reward=binary"):
        bench.driver().run()


@pytest.mark.parametrize("seed", [1, 2])
def test_order_and_duplicates_change_nothing(plain: PrmBench, tmp_path: Path, seed: int) -> None:
    bench = PrmBench(tmp_path, prm_config())
    bench.driver(seed, twice=0.3).run()
    assert result(bench) == result(plain)
    assert _selected(bench) == _selected(plain)


def _selected(bench: PrmBench) -> list[tuple[str, int, str]]:
    return sorted(
        (e["purpose"], e["index"], e["selected"] or "") for e in bench.of_type("shard_scored")
    )


@pytest.mark.parametrize("step", range(12))
def test_a_driver_that_dies_while_the_prm_is_built_changes_nothing(
    plain: PrmBench, tmp_path: Path, step: int
) -> None:
    first, last = prm_writes(plain)
    bench = PrmBench(tmp_path, prm_config())
    bench.backend.at = first + step * (last - first) // 12
    bench.backend.after = bool(step % 2)
    with pytest.raises(Crash):
        bench.driver().run()
    bench.driver(seed=step).run()
    assert result(bench) == result(plain)
    assert _selected(bench) == _selected(plain)


def prm_writes(plain: PrmBench) -> tuple[int, int]:
    """About where in a run's writes the PRM is built, by its share of the events."""
    at = [event["stage"].startswith("prm/") for event in plain.events]
    first, last = at.index(True), len(at) - 1 - at[::-1].index(True)
    return tuple(plain.backend.writes * place // len(at) for place in (first, last))  # type: ignore[return-value]


def test_lost_labels_and_scores_are_made_again(plain: PrmBench, tmp_path: Path) -> None:
    bench = PrmBench(tmp_path, prm_config())
    driver = bench.driver()
    taken: set[str] = set()

    def take(stage: str, events: Sequence[Any]) -> None:
        for event in events:
            path = event.get("path") if event["type"] == "labels_made" else event.get("scores")
            if path and event["type"] not in taken:
                taken.add(event["type"])
                bench.store.delete(path)

    after_commits(driver, take)
    driver.run()
    assert taken == {"labels_made", "shard_scored"}
    assert len(bench.of_type("labels_lost")) == 1
    assert result(bench) == result(plain)
