"""Runs with unlabelled queries over scripted workers: votes, selections, and their audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime.console import event_lines
from pipeline.audit.run import audit
from pipeline.config.resume import config_hash
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.driver.driver import drive
from pipeline.errors import BadConfig
from pipeline.hashing import canonical_json
from pipeline.phases.prm import unlabelled_scoring, unlabelled_vote
from pipeline.records import AnswerClass, Selected
from pipeline.refs import PolicyRef, ShardSet
from pipeline.reports.replay import OWN, Setting, kept_rows, replay_rows, stored_shards
from pipeline.reports.summary import summary
from pipeline.reports.tables import iteration_table
from pipeline.run.events.sampling import SamplingClosed, ShardGraded
from pipeline.run.events.wire import replay
from pipeline.run.pools import UNLABELLED, hide
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.run.stored import StoredRun
from pipeline.selection.coverage import Coverage
from pipeline.selection.pseudo_labels import Voting
from pipeline.simulation.fleet import ENGINE, decode
from pipeline.simulation.grader import GRADER
from pipeline.stages.select import place_of
from pipeline.storage.artifacts import put_content, read_rows
from pipeline.storage.parquet import to_parquet
from tests.support.audited import rewritten
from tests.support.chaos_world import RUN
from tests.support.driving import Bench, result
from tests.support.scripted import Crash, make_config, make_query, prm_config


def config_of(prm: bool = False, **unlabelled: Any) -> Config:
    sections = {
        "data": {"test": ["test"], "unlabelled_share": 0.5},
        "unlabelled": {"use": "pseudo", "vote": "majority", **unlabelled},
        "evolve": {"iterations": 3, "interval": 0.5},
    }
    if not prm:
        return make_config(**sections)
    base = prm_config()
    return make_config(
        **sections,
        select=base.select.model_dump(),
        prm={"samples": 6, "completions": 3, "pairs": 2, "held_out": 0.3, "use_anyway": True},
        generate={"samples": 6},
    )


def unlabelled_events(bench: Bench, kind: str = "shard_graded") -> list[Mapping[str, Any]]:
    return [one for one in bench.of_type(kind) if str(one["purpose"]).startswith("unlabelled/")]


@pytest.fixture(scope="module", params=["majority", "logprob", "prm"])
def voted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    by = request.param
    bench = Bench(tmp_path_factory.mktemp(by), config_of(by == "prm", vote=by, least_share=0.4))
    bench.run()
    return bench


def test_what_is_voted_stands_in_the_ledger_and_is_derived_again(voted: Bench) -> None:
    state = replay(voted.events)
    assert state.finished is not None
    assert audit(voted.store, "scripted", lambda _: decode).problems == []
    kind = "shard_scored" if voted.config.unlabelled.vote == "prm" else "shard_graded"
    votes = [label for event in unlabelled_events(voted, kind) for label in event["votes"].values()]
    assert any(label["taken"] for label in votes)
    assert all(label["taken"] == (label["share"] >= 0.4) for label in votes)
    rows = [row["unlabelled"] for row in state.iterations]
    assert sum(row["pseudo_labels"] for row in rows) == sum(label["taken"] for label in votes)
    for row in rows:
        assert row["known"] == row["pseudo_labels"]
        assert row["correct_pseudo_labels"] is None or 0 <= row["correct_pseudo_labels"] <= 1


def test_what_is_kept_gives_the_pseudo_label_and_is_trained_on(voted: Bench) -> None:
    kind = "shard_scored" if voted.config.unlabelled.vote == "prm" else "shard_graded"
    kept = 0
    for event in unlabelled_events(voted, kind):
        selected: list[Selected] = read_rows(voted.store, event["selected"], Selected)
        for row in selected:
            label = event["votes"][row.query]
            assert label["taken"]
            assert bytes(row.token_ids).decode().endswith(f"\n\n{label['answer']}")
            kept += 1
    trained = [row for t in range(3) for row in voted.learner.trained_rows[f"evolve/{t}"]]
    hidden = {query.content_hash for query in voted.program.splits[UNLABELLED]}
    assert kept > 0
    assert sum(row.partition("/")[0] in hidden for row in trained) == kept


def test_a_replay_makes_the_votes_again_and_others(voted: Bench) -> None:
    state, spec = replay(voted.events), voted.program
    shards = stored_shards(StoredRun(voted.store, RUN))
    own = Setting.of(OWN, state, spec)
    again = [frozenset(map(place_of, kept_rows(shard, own))) for shard in shards]
    assert again == [shard.kept for shard in shards]
    strict = replace(own, vote=Voting("majority", 1.0), name="all of them")
    mine, fewer = replay_rows(shards, [own, strict], spec.by_hash)
    known = [row["unlabelled"] for row in state.iterations]
    assert mine["pseudo_labels"] == sum(row["pseudo_labels"] for row in known)
    assert fewer["pseudo_labels"] <= mine["pseudo_labels"]
    if own.vote is not None and own.vote.by != "prm":
        with pytest.raises(BadConfig, match=r"unlabelled.vote = prm needs scores"):
            replay_rows(shards, [replace(own, vote=Voting("prm"))], spec.by_hash)


def test_hidden_answers_decide_nothing(tmp_path: Path) -> None:
    """Whatever the hidden answers are, the same rows are selected and the same weights trained."""
    config = config_of(vote="majority", least_share=0.4)

    def run(folder: Path, answer: str | None) -> Bench:
        bench = Bench(folder, config)
        truly = bench.program.by_hash
        if answer is not None:
            wrong = tuple(replace(q, answer=answer) for q in bench.program.splits[UNLABELLED])
            splits = {**bench.program.splits, UNLABELLED: wrong}
            bench.program = replace(bench.program, splits=splits)
        bench.context()
        bench.fleet.queries = truly  # the scripted policy knows what is correct
        drive(bench.current)
        return bench

    one, other = run(tmp_path / "a", None), run(tmp_path / "b", "99")
    decided = {"shard_graded": ("selected", "votes"), "job_done": ("key", "policy")}
    for kind, field in [(kind, field) for kind, some in decided.items() for field in some]:
        found = [[event.get(field) for event in bench.of_type(kind)] for bench in (one, other)]
        assert found[0] == found[1], field
    rates = [
        [row["unlabelled"]["correct_pseudo_labels"] for row in replay(bench.events).iterations]
        for bench in (one, other)
    ]
    assert rates[0] != rates[1], "they are read for the report"
    assert set(rates[1]) <= {0.0, None}


def test_the_oracle_uses_them_and_mixes_in_from_its_share_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, config_of(use="oracle", vote="prm", mix_in=0.5))
    bench.run()
    state = replay(bench.events)
    mixed = ["unlabelled" in row for row in state.iterations]
    assert mixed == [False, False, True]
    seen = summary(state, bench.program, bench.store)["labelled_queries"]
    assert (seen["control"], seen["final"]) == (6, 9), "half of the pool, and three hidden ones"
    assert all(event["selected"] and "votes" not in event for event in unlabelled_events(bench))
    assert audit(bench.store, "scripted").problems == []


def test_a_shard_of_votes_that_is_lost_is_made_again(tmp_path: Path) -> None:
    undisturbed = Bench(tmp_path / "a", config_of())
    undisturbed.run()
    bench = Bench(tmp_path / "b", config_of())
    bench.run(phases=())
    lost: list[str] = []

    def lose(event: Any) -> None:
        if not lost and isinstance(event, ShardGraded) and event.purpose == "unlabelled/1":
            assert event.selected is not None
            lost.append(event.selected)
            bench.backend.delete(event.selected)

    bench.watch.react = lose
    bench.run()
    assert lost
    assert bench.of_type("object_lost")
    ends = [one.of_type("job_done")[-1]["policy"] for one in (bench, undisturbed)]
    assert ends[0] == ends[1]
    assert audit(bench.store, "scripted").problems == []


def test_an_audit_names_classes_and_votes_that_cannot_be(tmp_path: Path) -> None:
    config = config_of()
    assert config.run.name == RUN
    bench = Bench(tmp_path, config)
    bench.run()
    objects = {path: bench.store.get(path) for path in bench.store.list("")}
    event = next(one for one in unlabelled_events(bench) if one["votes"])

    def other_votes(wire: dict[str, Any]) -> None:
        if wire.get("votes"):
            wire["votes"] = {q: {**one, "share": 1.5} for q, one in wire["votes"].items()}

    classes: list[AnswerClass] = read_rows(bench.store, event["classes"], AnswerClass)
    path = put_content(
        bench.store,
        "classes",
        event["classes"].split("/")[2],
        to_parquet([replace(one, equals=None) for one in classes], AnswerClass),
        "parquet",
    )
    objects[path] = bench.store.get(path)

    def other_classes(wire: dict[str, Any]) -> None:
        if wire.get("classes") == event["classes"]:
            wire["classes"] = path

    assert audit(rewritten(objects, lambda wire: None), RUN).problems == []
    forged = audit(rewritten(objects, other_votes), RUN).problems
    assert any("tells of other pseudo-labels" in one.what for one in forged)
    swapped = audit(rewritten(objects, other_classes), RUN).problems
    assert any("has a class that cannot be" in one.what for one in swapped)


def test_a_prm_that_is_not_used_votes_for_nobody(tmp_path: Path) -> None:
    spec = Bench(tmp_path, config_of(True, vote="prm", least_share=0.2)).program
    refused = State()
    refused.prm = {"used": False}
    refused.policies["prm"] = PolicyRef("policy-0", "policies/0")
    assert unlabelled_vote(refused, spec) == Voting("logprob", 0.2)
    assert unlabelled_scoring(refused, spec) is None
    used = State()
    used.policies["prm"] = PolicyRef("policy-0", "policies/0")
    assert unlabelled_vote(used, spec) == Voting("prm", 0.2)
    assert unlabelled_scoring(used, spec) is not None


def test_people_read_how_many_are_correct(voted: Bench) -> None:
    closed = SamplingClosed(
        ShardSet("unlabelled", 0), Coverage(queries=8, correct=9, samples=24), 24, 100,
        pseudo={"queries": 8, "voted": 7, "taken": 6, "known": 4, "correct": 3},
    )  # fmt: skip
    said = "\n".join(event_lines(closed, State()))
    assert "6 of 8 queries have a pseudo-label; 75.0 % of the 4 whose answer is known" in said
    table = iteration_table(replay(voted.events).iterations)
    assert table[0][-1] == "pseudo-labels"
    assert "% correct" in "".join(row[-1] for row in table[1:])


def test_the_pools_share_no_image_and_no_query() -> None:
    queries = [replace(make_query("train", i), images=(f"{i // 3:064d}",)) for i in range(30)]
    labelled, hidden = hide(queries, 0.5, 0)
    assert {i for q in labelled for i in q.images}.isdisjoint(i for q in hidden for i in q.images)
    assert len(hidden) == 15
    assert all(query.unlabelled for query in hidden)
    again = hide(list(reversed(queries)), 0.5, 0)
    assert {q.query_id for q in again[1]} == {q.query_id for q in hidden}
    assert hide(queries, 0.0, 0) == (queries, [])


def spec_of(config: Config, *queries: Any) -> RunSpec:
    both = [make_query(split, 0) for split in ("validation", "test")]
    return RunSpec.of(config, Dataset([*queries, *both], {}), ENGINE, GRADER)


def test_marked_rows_join_the_pool_and_an_empty_one_is_refused() -> None:
    train = [make_query("train", i) for i in range(4)]
    marked = replace(train[3], unlabelled=True)
    use = {"unlabelled": {"use": "pseudo", "vote": "majority"}}
    assert spec_of(make_config(**use), *train[:3], marked).unlabelled_pool == [marked.content_hash]
    with pytest.raises(BadConfig, match=r"the unlabelled pool is empty: split 'train' has no unla"):
        spec_of(make_config(**use), *train)
    oracle = make_config(unlabelled={"use": "oracle"})
    with pytest.raises(BadConfig, match=r"has 1 unlabelled rows whose answer is there"):
        spec_of(oracle, *train[:3], replace(marked, answer=None))
    named = make_config(data={"test": ["unlabelled"]}, **use)
    with pytest.raises(BadConfig, match=r"rename the split"):
        spec_of(named, *train[:3], marked)
    assert UNLABELLED not in spec_of(make_config(), *train[:3], marked).splits


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"unlabelled": {"use": "pseudo"}}, "unlabelled.vote = prm counts votes by a process"),
        (
            {"unlabelled": {"use": "oracle", "mix_in": 0.9}},
            "leaves no iteration that draws unlabelled queries",
        ),
    ],
)
def test_what_cannot_work_is_refused(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        make_config(**sections)


def test_a_run_without_them_is_what_it_was() -> None:
    plain, spelled = make_config(), make_config(unlabelled={"use": "none"})
    assert config_hash(plain) == config_hash(spelled)
    assert config_hash(plain) != config_hash(make_config(data={"unlabelled_share": 0.5}))
    queries = [make_query("train", i) for i in range(4)]
    assert canonical_json(sorted(spec_of(plain, *queries).fingerprint["splits"])) == canonical_json(
        ["test", "train", "validation"]
    )


def test_a_run_that_is_killed_again_and_again_votes_the_same(tmp_path: Path) -> None:
    undisturbed = Bench(tmp_path / "a", config_of(vote="logprob"))
    undisturbed.run()
    bench = Bench(tmp_path / "b", config_of(vote="logprob"))
    deaths = 0
    while True:
        bench.backend.at = bench.backend.writes + 41
        bench.backend.after = deaths % 2 == 1
        try:
            bench.run(seed=deaths, twice=0.2)
        except Crash:
            deaths += 1
            continue
        break
    assert deaths > 2
    assert result(bench) == result(undisturbed)
    votes = [
        {(e["purpose"], e["index"]): e["votes"] for e in unlabelled_events(one)}
        for one in (bench, undisturbed)
    ]
    assert votes[0] == votes[1]
    assert audit(bench.store, "scripted").problems == []
