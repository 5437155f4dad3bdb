"""The audit of a run with a process reward model: completions, labels, verdict and scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pipeline.audit.diff import first_difference
from pipeline.audit.run import Report, audit
from pipeline.audit.trace import lines, trace
from pipeline.prm.labels import Decode
from pipeline.records import Rollout, Score, Selected, StepValues
from pipeline.refs import PolicyRef
from pipeline.run.events import event as events
from pipeline.run.events.prm import LabelsMade
from pipeline.run.events.sampling import ShardGraded, ShardScored
from pipeline.run.stored import StoredRun
from pipeline.selection.rewards import reward_p
from pipeline.simulation.fleet import decode
from pipeline.storage.artifacts import put_content
from pipeline.storage.parquet import from_parquet, to_parquet
from pipeline.storage.store import Store
from tests.support.audited import Objects, rewritten, store_of
from tests.support.chaos_world import RUN
from tests.support.driving import Bench
from tests.support.scripted import prm_config

Row = TypeVar("Row")
Event = Mapping[str, Any]


def decoder(policy: PolicyRef) -> Decode:
    return decode


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("prm"), prm_config())
    bench.run()
    return bench


def objects_of(bench: Bench) -> Objects:
    return {path: bench.store.get(path) for path in bench.store.list()}


def forged(
    bench: Bench,
    path: str,
    kind: type[Row],
    change: Callable[[list[Row]], list[Row]],
    *,
    key: str = "",
    also: Callable[[dict[str, Any]], None] = lambda event: None,
) -> tuple[Report, str]:
    """The audit of the run with other rows at `path`, which every event names instead, in a ledger
    that is whole, sealed and chained; and where they lie. key: of the object, if not its own."""
    objects = objects_of(bench)
    store = store_of(objects)
    rows = change(from_parquet(store.get(path), kind))  # type: ignore[type-var]
    _, stage, own, _ = path.split("/")
    data = to_parquet(rows, kind)  # type: ignore[type-var]
    other = put_content(store, stage, key or own, data, "parquet")

    def swap(event: dict[str, Any]) -> None:
        event |= json.loads(json.dumps(event).replace(path, other))
        also(event)

    ledger = rewritten(objects | {other: store.get(other)}, swap)
    return audit(ledger, RUN, decoder), other


def of_stage(bench: Bench, kind: str, stage: str) -> Event:
    """An event of a stage, about a shard of which something was chosen where that is told."""
    return next(
        event
        for event in bench.of_type(kind)
        if event["stage"] == stage and (event.get("coverage") or {"kept": 1})["kept"]
    )


def says(report: Report, path: str, what: str) -> bool:
    return any(path in one.path and what in one.what for one in report.problems)


# --- as it is -------------------------------------------------------------------------------------


def test_a_run_with_a_prm_is_clean_and_every_shard_of_it_is_followed(scored: Bench) -> None:
    report = audit(scored.store, RUN, decoder)
    assert report.problems == []
    assert report.finished
    rounds = {e["purpose"] for e in scored.of_type("shard_accepted")} - {"prm/rollouts"}
    assert {"prm/values/0", "prm/values/1"} <= rounds


def test_without_the_tokens_texts_a_prm_cannot_be_audited(scored: Bench) -> None:
    with pytest.raises(RuntimeError, match="decoder"):
        audit(scored.store, RUN)


def test_a_sample_is_traced_to_the_prm_and_its_step_scores(scored: Bench) -> None:
    event = of_stage(scored, "shard_scored", "evolve/1/generate")
    row = from_parquet(scored.store.get(event["selected"]), Selected)[0]
    (origin,) = trace(StoredRun(scored.store, RUN), f"evolve/1:{row.query_id}/{row.sample_index}")
    (judged,) = scored.of_type("prm_judged")
    assert origin["score"]["prm"] == {"version": judged["version"], "path": judged["path"]}
    assert origin["score"]["reward_p"] == origin["selection"]["reward"] == row.reward
    assert min(score for _, score in origin["score"]["steps"]) == row.reward
    told = "\n".join(lines(origin))
    assert judged["version"] in told
    assert f"reward_p: {row.reward!r}" in told


@pytest.mark.parametrize("start", ["shards/score", "shards/labels", "shards/rollout/complete"])
def test_a_damaged_object_of_the_prm_is_named_and_nothing_else(scored: Bench, start: str) -> None:
    copy = store_of(objects_of(scored))
    place = next(path for path in copy.list() if path.startswith(start))
    copy.replace(place, b"")
    assert {problem.path for problem in audit(copy, RUN, decoder).problems} == {place}


def test_graded_responses_that_are_gone_leave_the_rest_untold(scored: Bench) -> None:
    """What was derived from them cannot be followed, and only they are named."""
    copy = store_of(objects_of(scored))
    gone = next(e for e in scored.of_type("shard_graded") if e["purpose"] == "prm/rollouts")
    copy.delete(gone["grades"])
    assert {problem.path for problem in audit(copy, RUN, decoder).problems} == {gone["grades"]}


@pytest.mark.parametrize("purpose", ["prm/rollouts", "prm/values/0"])
def test_a_run_that_made_its_labels_again_is_clean_and_did_the_same(
    scored: Bench, tmp_path: Path, purpose: str
) -> None:
    bench = Bench(tmp_path, prm_config())
    taken: set[str] = set()

    def take(event: events.Event) -> None:
        mine = isinstance(event, LabelsMade) or (
            isinstance(event, ShardGraded) and event.purpose == purpose
        )
        if mine and event.type not in taken:
            taken.add(event.type)
            bench.store.delete(getattr(event, "grades", "") or getattr(event, "path", ""))

    bench.watch.react = take
    bench.drive()
    assert len(bench.of_type("labels_lost")) == 1
    assert bench.of_type("object_lost")
    assert audit(bench.store, RUN, decoder).problems == []
    assert first_difference(scored.events, bench.events) is None


# --- as it was not --------------------------------------------------------------------------------


def test_one_altered_value_is_named(scored: Bench) -> None:
    (made,) = scored.of_type("labels_made")

    def change(rows: list[StepValues]) -> list[StepValues]:
        values = (rows[3].values[0] / 2 + 0.25, *rows[3].values[1:])
        return [*rows[:3], replace(rows[3], values=values), *rows[4:]]

    row = from_parquet(scored.store.get(made["path"]), StepValues)[3]
    report, other = forged(scored, made["path"], StepValues, change)
    name = f"step 0 of sample {row.sample_index} of {row.query_id} has the value"
    assert says(report, other, name)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"token_ids": tuple(b"other")}, "is not what was sampled"),
        ({"step_ends": (1, 2)}, "end elsewhere"),
        ({"sample_index": 77}, "it holds sample 77"),
        ({"held_out": None}, "side of the split"),
    ],
)
def test_another_labelled_response_is_named(
    scored: Bench, changes: dict[str, Any], why: str
) -> None:
    (made,) = scored.of_type("labels_made")

    def change(rows: list[StepValues]) -> list[StepValues]:
        new = {**changes, "held_out": not rows[0].held_out} if "held_out" in changes else changes
        return [replace(rows[0], **new), *rows[1:]]

    report, other = forged(scored, made["path"], StepValues, change)
    assert says(report, other, why), report.problems


def a_completion_shard(bench: Bench) -> Event:
    return next(e for e in bench.of_type("shard_accepted") if e["purpose"] == "prm/values/0")


def test_one_completion_of_a_foreign_prefix_is_named(scored: Bench) -> None:
    event = a_completion_shard(scored)

    def change(rows: list[Rollout]) -> list[Rollout]:
        return [rows[0], replace(rows[1], text=f"x{rows[1].text}"), *rows[2:]]

    row = from_parquet(scored.store.get(event["rollout"]), Rollout)[1]
    report, other = forged(scored, event["rollout"], Rollout, change)
    what = f"sample 1 of {row.query_id} does not continue the prefix that the plan gives it"
    assert says(report, other, what)


def test_completions_that_no_response_asks_for_are_named(scored: Bench) -> None:
    event = a_completion_shard(scored)
    key = "complete-0123456789abcdef"

    def also(one: dict[str, Any]) -> None:
        if one.get("key") == event["key"]:
            one["key"] = key

    report, other = forged(scored, event["rollout"], Rollout, list, key=key, also=also)
    assert says(report, "/ledger/", f"accepts {other}, which no plan asks for")


def test_another_seed_of_a_completion_is_named(scored: Bench) -> None:
    event = a_completion_shard(scored)

    def change(rows: list[Rollout]) -> list[Rollout]:
        return [*rows[:-1], replace(rows[-1], seed=rows[-1].seed + 1)]

    report, other = forged(scored, event["rollout"], Rollout, change)
    assert says(report, other, "has another seed, policy or temperature")


def altered(index: int, *, whole: bool) -> Callable[[list[Score]], list[Score]]:
    """One score's first step changed; whole: its R_p with it."""

    def change(rows: list[Score]) -> list[Score]:
        score = rows[index]
        steps = (score.step_scores[0] / 3, *score.step_scores[1:])
        reward = reward_p(steps) if whole else score.reward_p
        return [
            *rows[:index],
            replace(score, step_scores=steps, reward_p=reward),
            *rows[index + 1 :],
        ]

    return change


def test_one_altered_score_is_named(scored: Bench) -> None:
    event = of_stage(scored, "shard_scored", "evolve/0/generate")
    report, other = forged(scored, event["scores"], Score, altered(0, whole=False))
    assert says(report, other, "its step scores give")
    # Whoever alters R_p as well cannot make the selection that was trained on follow from it.
    report, other = forged(scored, event["scores"], Score, altered(0, whole=True))
    assert says(report, event["selected"], "other grades or scores, or another rule, chose it")


def test_one_altered_score_of_the_gate_is_named_by_its_card(scored: Bench) -> None:
    event = next(e for e in scored.of_type("shard_scored") if e["stage"] == "prm/judge"
                 and from_parquet(scored.store.get(e["scores"]), Score))  # fmt: skip
    (judged,) = scored.of_type("prm_judged")
    report, _ = forged(scored, event["scores"], Score, altered(0, whole=True))
    assert says(report, judged["path"], "its card is not what its labels and their scores give")


def test_scores_of_another_prm_or_of_other_responses_are_named(scored: Bench) -> None:
    event = of_stage(scored, "shard_scored", "evolve/0/generate")
    (judged,) = scored.of_type("prm_judged")
    report, other = forged(scored, event["scores"], Score, list, key="score-0123456789abcdef")
    assert says(report, other, f"another process reward model than {judged['version']} made it")
    report, other = forged(scored, event["scores"], Score, lambda rows: rows[1:])
    assert says(report, other, "scores of")


def test_scores_of_the_gate_after_a_loss_are_held_against_the_prm(
    scored: Bench, tmp_path: Path
) -> None:
    """Grades that are gone while the gate is scored: made again, and what follows is audited."""
    bench = Bench(tmp_path, prm_config())
    taken: list[str] = []

    def take(event: events.Event) -> None:
        if isinstance(event, ShardScored) and event.stage == "prm/judge" and not taken:
            taken.append(bench.current.state.shards[event.purpose][event.index].grades or "")
            bench.store.delete(taken[0])
            bench.store.delete(event.scores)
            loss = bench.current.loss(event.purpose, taken[0], "a test took it")
            bench.current.commit([replace(loss, stage=event.stage)])

    bench.watch.react = take
    bench.drive()
    assert bench.of_type("object_lost")
    assert audit(bench.store, RUN, decoder).problems == []
    event = next(e for e in bench.of_type("shard_scored") if e["stage"] == "prm/judge"
                 and from_parquet(bench.store.get(e["scores"]), Score))  # fmt: skip
    report, other = forged(bench, event["scores"], Score, list, key="score-0123456789abcdef")
    assert says(report, other, "another process reward model than")


def test_step_scores_that_stand_elsewhere_are_named(scored: Bench) -> None:
    event = of_stage(scored, "shard_scored", "evolve/0/generate")

    def change(rows: list[Score]) -> list[Score]:
        ends = (rows[0].step_ends[0] - 1, *rows[0].step_ends[1:])
        return [replace(rows[0], step_ends=ends), *rows[1:]]

    report, other = forged(scored, event["scores"], Score, change)
    assert says(report, other, "do not stand at the ends of its steps")


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("used", False, "does not follow from its card"),
        ("reasons", ["it is bad"], "does not follow from its card"),
        ("version", "policy-0123456789abcdef", "its event calls it"),
    ],
)
def test_a_verdict_that_does_not_follow_is_named(
    scored: Bench, field: str, value: Any, why: str
) -> None:
    def change(event: dict[str, Any]) -> None:
        if event["type"] == "prm_judged":
            event[field] = value

    (judged,) = scored.of_type("prm_judged")
    report = audit(rewritten(objects_of(scored), change), RUN, decoder)
    assert says(report, judged["path"], why), report.problems


def test_another_model_than_the_trained_one_is_named(scored: Bench) -> None:
    """The judgement is of the run's PRM, and the model with the card in it is another."""
    base = next(e for e in scored.of_type("policy_published") if e["name"] == "base")

    def change(event: dict[str, Any]) -> None:
        if event["type"] == "prm_judged":
            event["path"], event["version"] = base["path"], base["version"]

    report = audit(rewritten(objects_of(scored), change), RUN, decoder)
    assert says(report, base["path"], "it is not the model that was trained")


def test_counts_of_labels_that_do_not_follow_are_named(scored: Bench) -> None:
    def change(event: dict[str, Any]) -> None:
        if event["type"] == "labels_made":
            event["trained"] += 1

    (made,) = scored.of_type("labels_made")
    report = audit(rewritten(objects_of(scored), change), RUN, decoder)
    assert says(report, made["path"], "counts other responses")


def unchanged(store: Store) -> dict[str, bytes]:
    return {path: store.get(path) for path in store.list()}


def test_an_audit_changes_nothing(scored: Bench) -> None:
    copy = store_of(objects_of(scored))
    for start in ("shards/labels", "shards/score", "shards/grade"):
        copy.replace(next(path for path in copy.list() if path.startswith(start)), b"")
    before = unchanged(copy)
    assert not audit(copy, RUN, decoder).clean
    assert unchanged(copy) == before
