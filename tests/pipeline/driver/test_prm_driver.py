"""The process reward model in the loop: annotated, trained, judged, and used from the start."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.audit.run import audit
from pipeline.config.schema import Config
from pipeline.errors import RunStopped
from pipeline.records import Grade, Rollout, Score, Selected, StepValues
from pipeline.run.events.event import Event
from pipeline.run.events.prm import LabelsMade
from pipeline.run.events.sampling import ShardScored
from pipeline.run.events.wire import replay
from pipeline.run.state import State
from pipeline.simulation.fleet import decode
from pipeline.simulation.workers import Hooked
from pipeline.storage.artifacts import read_rows
from tests.support.driving import Bench, card_in, result
from tests.support.scripted import Crash, prm_config


@pytest.fixture(scope="module")
def config() -> Config:
    return prm_config()


def stages(bench: Bench) -> list[str]:
    """The stages in the order in which they first appear."""
    return list(dict.fromkeys(event["stage"] for event in bench.events))


def test_the_prm_is_built_after_the_warm_up_and_before_the_first_iteration(
    plain: Bench,
) -> None:
    order = [stage for stage in stages(plain) if not stage.startswith(("base", "final"))]
    mine = ["prm/generate", "prm/annotate", "prm/learn", "prm/judge"]
    start = order.index("prm/generate")
    assert order[start : start + 4] == mine
    assert order[start - 1] == "warmup/evaluate"
    assert order[start + 4] == "evolve/0/generate"


def test_values_are_shares_of_completions_of_sampled_prefixes(plain: Bench) -> None:
    (made,) = plain.of_type("labels_made")
    rows = read_rows(plain.store, made["path"], StepValues)
    assert made["trained"] + made["held_out"] == len(rows)
    assert {row.held_out for row in rows} == {True, False}
    rollouts: dict[tuple[str, tuple[int, ...]], list[bool]] = {}
    truncated = 0
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
            correct = outcomes[row.query, row.sample_index] == "correct"
            truncated += correct and row.finish == "length"
            hits = rollouts.setdefault((row.query, prefix), [])
            hits.append(correct and row.finish == "stop")
    assert all(len(hits) == 3 for hits in rollouts.values())
    assert truncated, "a truncated completion whose answer is correct counts as wrong"
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


def test_what_annotation_costs_is_said_before_its_first_completion(bench: Bench) -> None:

    def stop(call: str) -> None:
        if call == "before fleet.submit" and "prm/rollouts" in bench.current.state.closed:
            raise Crash

    fleet = Hooked(bench.fleet, "fleet", stop)
    bench.current.workers = replace(bench.current.workers, fleet=fleet)
    with pytest.raises(Crash):
        bench.drive()
    (told,) = [line for line in bench.watch.said if line.startswith("annotation:")]
    assert "prefixes; at most" in told


def test_selections_keep_the_correct_response_with_the_highest_reward(plain: Bench) -> None:
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
        assert event["purpose"] in ("warmup", "control") or event["selected"] is None


def test_only_correct_responses_are_scored_unless_all_are_wanted(
    plain: Bench, tmp_path: Path
) -> None:
    asked = {(row.query, row.sample_index) for _, rows in plain.scorer.asked for row in rows}
    right = {
        (g.query, g.sample_index)
        for event in plain.of_type("shard_graded")
        if event["purpose"].startswith(("evolve/", "prm/rollouts"))
        for g in read_rows(plain.store, event["grades"], Grade)
    }
    assert asked <= right
    more = Bench(tmp_path, prm_config(scoring="all"))
    more.run()
    assert sum(len(rows) for _, rows in more.scorer.asked) > len(asked)
    assert any(e["purpose"].startswith("evaluate/") for e in more.of_type("shard_scored"))
    told = [e["result"] for e in more.of_type("evaluated") if "reward_pass_2" in e["result"]]
    assert told
    for one in told:
        # Of two samples, both are among the best two.
        assert one["reward_pass_2"]["value"] == one["pass_at"]["2"]["value"]
        assert one["reward_pass_2"]["value"] <= one["reward_pass_2_distinct"]["value"]


def test_validation_samples_are_scored_without_those_that_are_trained_on(tmp_path: Path) -> None:
    validated = Bench(tmp_path, prm_config(scoring="validation"))
    validated.run()
    which = {task.scoring.which for task, _ in validated.scorer.asked if task.rule is not None}
    assert which == {"right"}
    assert all("reward_pass_2" in e["result"] for e in validated.of_type("evaluated")
               if e["mode"] == "sampled" and e["stage"].startswith("evolve/"))  # fmt: skip
    assert [row["reward_pass_2"] is not None for row in replay(validated.events).iterations] == [
        True
    ] * 3


def test_the_card_lies_in_the_prms_folder(plain: Bench, tmp_path: Path) -> None:
    state = replay(plain.events)
    card = json.loads(card_in(plain.store, state.policies["prm"], tmp_path / "prm"))
    assert "its labels cannot show whether it orders" in card["shortfalls"][0]
    assert "20 are needed" in card["gate"]["cannot_show"][0]
    # Its bytes are hashed: a setting that was renamed stays under its first name.
    assert {"surprise", "labels", "path"} <= card["settings"].keys()
    assert "log_likelihood" not in card["settings"]
    assert card["gate"]["auc_step"]["value"] > 0.6
    assert card["labels"]["cost"]["rollouts"] > 0
    assert state.prm is not None
    assert state.prm["used"]
    assert any("annotation:" in line and "rollouts" in line for line in plain.watch.said)


def test_responses_that_are_too_long_to_score_are_counted_everywhere(tmp_path: Path) -> None:
    """Held out for the gate, or right and not selected; scored by the other engine."""
    bench = Bench(tmp_path, prm_config(engine="transformers"))
    # Answers of two characters are too long.
    longest = bench.scorer.longest = len("a0\n\nb0\n\n# Answer\n\n7")
    state = bench.drive()
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
            assert all(len(row.token_ids) <= longest for row in kept)
    assert audit(bench.store, bench.config.run.name, lambda policy: decode).problems == []


def without_quality(bench: Bench) -> State:
    """A run whose process reward model says nothing."""
    bench.scorer.quality = 0.0
    return bench.drive()


def test_a_prm_below_the_bar_is_not_used_unless_told_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "blind", prm_config(use_anyway=False))
    state = without_quality(bench)
    assert state.prm is not None
    assert not state.prm["used"]
    assert "cannot show whether it orders correct responses" in state.prm["reasons"][0]
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
    assert any("ranked by their log-likelihood" in line for line in bench.watch.said)
    for event in drawn:
        for row in read_rows(bench.store, event["selected"], Selected):
            assert row.reward == math.fsum(row.logprobs), "what costs nothing takes its place"
    told = Bench(tmp_path / "told", prm_config(use_anyway=True))
    state = without_quality(told)
    assert state.prm is not None
    assert state.prm["used"]
    assert [e for e in told.of_type("shard_scored") if e["purpose"].startswith("evolve/")]


def test_a_prm_of_the_users_own_skips_the_building(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "model.json").write_text("{}")
    bench = Bench(tmp_path / "run", prm_config(path=str(folder)))
    state = bench.run()
    assert not bench.of_type("labels_made")
    assert state.prm is None
    assert [e for e in bench.of_type("shard_scored") if e["purpose"].startswith("evolve/")]


def test_questions_that_are_never_mixed_end_the_run_with_a_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path, prm_config(queries=2, samples=2))
    with pytest.raises(RunStopped, match=r"too few to train.*select\.reward=binary"):
        bench.run()


def selected_by_score(bench: Bench) -> list[tuple[str, int, str]]:
    return sorted(
        (e["purpose"], e["index"], e["selected"] or "") for e in bench.of_type("shard_scored")
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_order_and_duplicates_change_nothing(plain: Bench, bench: Bench, seed: int) -> None:
    bench.run(seed, twice=0.3)
    assert result(bench) == result(plain)
    assert selected_by_score(bench) == selected_by_score(plain)


@pytest.mark.parametrize("step", range(12))
def test_a_driver_that_dies_while_the_prm_is_built_changes_nothing(
    plain: Bench, bench: Bench, step: int
) -> None:
    first, last = prm_writes(plain)
    bench.backend.at = first + step * (last - first) // 12
    bench.backend.after = bool(step % 2)
    with pytest.raises(Crash):
        bench.run()
    bench.run(seed=step)
    assert result(bench) == result(plain)
    assert selected_by_score(bench) == selected_by_score(plain)


def prm_writes(plain: Bench) -> tuple[int, int]:
    """About where in a run's writes the PRM is built, by its share of the events."""
    at = [event["stage"].startswith("prm/") for event in plain.events]
    first, last = at.index(True), len(at) - 1 - at[::-1].index(True)
    return tuple(plain.backend.writes * place // len(at) for place in (first, last))  # type: ignore[return-value]


def test_lost_labels_and_scores_are_made_again(plain: Bench, bench: Bench) -> None:
    taken: set[str] = set()

    def take(event: Event) -> None:
        if isinstance(event, LabelsMade | ShardScored) and event.type not in taken:
            taken.add(event.type)
            bench.store.delete(event.path if isinstance(event, LabelsMade) else event.scores)

    bench.watch.react = take
    bench.run()
    assert taken == {"labels_made", "shard_scored"}
    assert len(bench.of_type("labels_lost")) == 1
    assert result(bench) == result(plain)
