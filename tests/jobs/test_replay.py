"""Replay: with a run's own settings its own selection; with others, what they would have kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.replay import changed_setting, changed_spec, replay
from pipeline.config.load import changed_config
from pipeline.errors import BadConfig
from pipeline.reports.replay import OWN, Setting, Stored, kept_rows, replay_rows, stored_shards
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.run.stored import StoredRun
from pipeline.stages.select import Place, place_of
from pipeline.storage.store import Store
from tests.support.driving import Bench
from tests.support.earlier_runs import store_of
from tests.support.jobs import job_config, mstar, refused
from tests.support.scripted import make_config, prm_config

Run = tuple[State, RunSpec, list[Stored]]


def opened(store: Store, name: str) -> Run:
    run = StoredRun(store, name)
    return run.state, run.spec, stored_shards(run)


def kept_by(setting: Setting, shards: list[Stored]) -> list[frozenset[Place]]:
    return [frozenset(map(place_of, kept_rows(shard, setting))) for shard in shards]


@pytest.fixture(scope="module")
def by_prm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    bench = Bench(tmp_path_factory.mktemp("prm"), prm_config())
    bench.run()
    return opened(bench.store, "scripted")


@pytest.mark.parametrize(
    "select",
    [
        {"rule": "random_k", "k": 2},
        {"rule": "all_correct"},
        {"rule": "top_k", "k": 1, "by": "logprob"},
        {"rule": "bottom_k", "k": 1, "by": "logprob"},
        {"rule": "top_k", "k": 1, "by": "length"},
        {"rule": "top_k", "k": 1, "by": "random"},
    ],
    ids=lambda select: " ".join(map(str, select.values())),
)
def test_a_runs_own_settings_give_its_own_selection(select: dict[str, Any], tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_config(select=select))
    bench.run()
    state, spec, shards = opened(bench.store, "scripted")
    own = Setting.of(OWN, state, spec)
    assert sum(len(shard.kept) for shard in shards) == sum(row["kept"] for row in state.iterations)
    assert kept_by(own, shards) == [shard.kept for shard in shards]


def test_so_do_those_of_a_run_that_selects_by_its_prm(by_prm: Run) -> None:
    state, spec, shards = by_prm
    own = Setting.of(OWN, state, spec)
    assert own.rule.by_prm
    assert kept_by(own, shards) == [shard.kept for shard in shards]
    assert any(shard.kept for shard in shards)


def test_and_those_of_a_run_of_an_earlier_program() -> None:
    """Of the iterations that it had closed when it was interrupted."""
    state, spec, shards = opened(store_of("scripted"), "scripted")
    own = Setting.of(OWN, state, spec)
    assert own.rule.version == 1
    assert shards
    assert kept_by(own, shards) == [shard.kept for shard in shards]


def test_other_settings_stand_side_by_side(by_prm: Run) -> None:
    state, spec, shards = by_prm

    def setting(*overrides: str) -> Setting:
        config = changed_config(spec.config, overrides)
        changed = RunSpec(config, spec.splits, spec.engine, spec.grader)
        return Setting.of(" ".join(overrides), state, changed)

    asked = [
        Setting.of(OWN, state, spec),
        setting("select.k=4"),
        setting("select.by=logprob"),
        setting("generate.samples=3"),
        setting("select.rule=threshold", "select.threshold=0.7"),
    ]
    own, four, by_logprob, fewer, above = replay_rows(shards, asked, spec.by_hash)
    assert own["kept_by_the_run"] == 1.0
    assert four["kept"] >= own["kept"]
    assert by_logprob["kept"] == own["kept"], "as many, others"
    assert by_logprob["nats"] >= own["nats"]
    assert fewer["kept"] <= own["kept"]
    assert 0 <= above["kept"] <= four["kept"]
    for row in (own, four):
        assert sum(one["kept"] for one in row["iterations"].values()) == row["kept"]


def on_disk(bench: Bench, folder: Path) -> Path:
    """The store of a run as files."""
    for path in bench.store.list():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(bench.store.get(path))
    return folder


def test_the_command(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_config())
    bench.run()
    folder = on_disk(bench, tmp_path / "store")
    out = tmp_path / "rows.json"
    done = mstar("replay", str(folder), "--with", "select.k=1", "--out", out)
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())
    assert [row["setting"] for row in rows] == [OWN, "select.k=1"]
    assert "as run" in done.output
    with pytest.raises(BadConfig, match=r"select.by = prm needs scores"):
        replay(str(folder), ["select.rule=top_k select.reward=prm"])
    with pytest.raises(BadConfig, match="stored 3 of each query"):
        replay(str(folder), ["generate.samples=9"])
    with pytest.raises(BadConfig, match=r"generate.temperature would have made other responses"):
        replay(str(folder), ["generate.temperature=0.5"])


def test_what_stands_in_for_a_refused_reward_model_stands_in_under_other_settings_too(
    tmp_path: Path,
) -> None:
    """Unless the setting itself asks for its scores, which there are none of."""
    bench = Bench(tmp_path, prm_config(use_anyway=False))
    judged = bench.run().prm
    assert judged is not None
    assert not judged["used"]
    folder, out = on_disk(bench, tmp_path / "store"), tmp_path / "rows.json"
    asked = ["select.k=2", "select.rule=bottom_k", "generate.samples=3"]
    done = mstar("replay", folder, *(x for one in asked for x in ("--with", one)), "--out", out)
    assert done.exit_code == 0, done.output
    assert "select.otherwise = logprob stands in for it" in done.output
    own, two, bottom, fewer = json.loads(out.read_text())
    assert own["kept_by_the_run"] == 1.0
    assert two["kept"] > own["kept"] == bottom["kept"] >= fewer["kept"]
    state, spec, _ = opened(bench.store, "scripted")
    rule = changed_setting(asked[1], state, spec, changed_spec(asked[1], spec)).rule
    assert (rule.name, rule.by) == ("bottom_k", "logprob")
    for one in ("select.by=prm", "select.threshold=0.7 select.rule=threshold"):
        with pytest.raises(BadConfig, match=r"needs scores, and this run scored nothing"):
            replay(str(folder), [one])


def test_votes_are_made_again_where_a_run_made_some(tmp_path: Path) -> None:
    sections = {"data": {"unlabelled_share": 0.5}, "evolve": {"iterations": 1, "interval": 1.0}}
    votes = {"use": "pseudo", "vote": "majority"}
    bench = Bench(tmp_path, make_config(unlabelled=votes, **sections))
    bench.run()
    run = on_disk(bench, tmp_path / "store")
    setting = "unlabelled.vote=logprob unlabelled.least_share=0.9"
    done = mstar("replay", run, "--with", setting, "--out", tmp_path / "rows.json")
    assert done.exit_code == 0, done.output
    assert "pseudo-labels" in done.output
    own, other = json.loads((tmp_path / "rows.json").read_text())
    assert own["kept_by_the_run"] == 1.0
    plain = mstar("replay", run, "--with", "unlabelled.use=none")
    assert plain.exit_code == 2
    assert "unlabelled.use would have made other responses" in plain.output
    assert other["pseudo_labels"] <= own["pseudo_labels"] <= 6


def test_an_empty_unlabelled_pool_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = job_config(tmp_path, unlabelled={"use": "pseudo", "vote": "majority"})
    said = refused(config, tmp_path)
    assert "the unlabelled pool is empty" in said
    assert "data.unlabelled_share=0.5" in said
