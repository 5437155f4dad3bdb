"""Searches and dynamics of a run reported, and decided again with other settings."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.events.wire import replay
from pipeline.run.ledger import Ledger
from pipeline.run.state import State
from pipeline.storage.store import open_store
from tests.support.finished_runs import driven_to, loop_run
from tests.support.jobs import mstar
from tests.support.scripted import make_config, with_base

GRID = [0.6, 1.0, 1.3]
EXPLORE = {"every": 2, "grid": GRID, "samples": 4, "mode": "argmax"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two searches and four dynamics, ranked by log-likelihood."""
    return loop_run(
        tmp_path_factory.mktemp("runs"),
        0,
        select={"rule": "top_k", "k": 1, "by": "logprob"},
        explore=EXPLORE,
        dynamics={"every": 1, "grid": [0.6, 1.0], "samples": 4},
    )


def state_of(run: Path) -> State:
    return replay(Ledger(open_store(run / "store"), run.name).replay())


def test_data_plots_and_cost_of_a_run(run: Path, tmp_path: Path) -> None:
    done = mstar("report", "dynamics", run, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    state = state_of(run)
    found = json.loads((tmp_path / "exploration.json").read_text())
    assert found["searches"] == json.loads(json.dumps(state.temperatures))
    assert [one["iteration"] for one in found["dynamics"]] == [0, 1, 2, 3]
    # Of five questions four samples: twice three temperatures, and two after two iterations more.
    assert found["cost"]["explore"]["rollouts"] == 2 * 3 * 5 * 4
    assert found["cost"]["dynamics"]["rollouts"] == 2 * 2 * 5 * 4
    assert found["cost"]["evolve"]["rollouts"] == 3 * 4 * 3
    assert "searches: 120 rollouts of the run's " in done.output
    with (tmp_path / "dynamics.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = state.dynamics[0]["rows"]["0.6"]["headroom"]["4"]
    (row,) = (one for one in rows if (one["iterations"], one["temperature"], one["figure"],
                                      one["k"]) == ("0", "0.6", "headroom", "4"))  # fmt: skip
    assert float(row["value"]) == pytest.approx(first["value"])
    assert float(row["low"]) == pytest.approx(first["ci95"][0])
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {
        "figure3-headroom.png", "figure4-pass-at-k.png", "figure5-reward-pass-2.png", "searches.png"
    }  # fmt: skip


def test_a_run_without_any_is_refused(tmp_path: Path) -> None:
    config = with_base(make_config(run={"name": "begun"}), tmp_path / "base")
    begun = driven_to(config, tmp_path / "begun", lambda state: "base" in state.policies)
    done = mstar("report", "dynamics", begun, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "neither searched for a temperature (explore.every)" in done.output
    assert not (tmp_path / "out").exists()


def test_status_and_summary_tell_of_temperatures(run: Path) -> None:
    done = mstar("status", run)
    assert "Reward-Pass@2 of 4 by log-likelihood" in done.output
    assert "what the policy before iteration 3 can do" in done.output


def replayed(run: Path, folder: Path, *settings: str) -> list[dict[str, Any]]:
    asked = [part for setting in settings for part in ("--with", setting)]
    done = mstar("replay", run, *asked, "--out", folder / "rows.json")
    assert done.exit_code == 0, done.output
    rows: list[dict[str, Any]] = json.loads((folder / "rows.json").read_text())
    return rows


def test_a_runs_own_settings_give_its_own_decisions(run: Path, tmp_path: Path) -> None:
    (own,) = replayed(run, tmp_path)
    assert own["searches"] == json.loads(json.dumps(state_of(run).temperatures))


def test_other_settings_decide_otherwise_on_the_same_samples(run: Path, tmp_path: Path) -> None:
    own, passes, part, sound = replayed(
        run,
        tmp_path,
        "explore.by=pass_at_k explore.samples=2",
        "explore.grid=[0.6,1.0]",
        "explore.mode=sound",
    )
    assert passes["searches"][0]["figure"] == "pass_at_k"
    assert passes["searches"][0]["samples"] == 2
    assert set(part["searches"][0]["curve"]) == {"0.6", "1"}
    assert part["searches"][0]["curve"]["0.6"] == own["searches"][0]["curve"]["0.6"]
    assert all(one["bound"] is not None for one in sound["searches"][0]["gains"].values())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("explore.samples=9", "stored 4 of each question"),
        ("explore.grid=[0.6,2.0]", "sampled T = 0.6, 1, 1.3, not 2"),
        ("explore.every=1 evaluate.samples=3", "evaluate.samples would have made other responses"),
    ],
)
def test_what_was_not_stored_cannot_be_decided(run: Path, setting: str, words: str) -> None:
    done = mstar("replay", run, "--with", setting)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


def test_simulated_searches_are_drawn(tmp_path: Path) -> None:
    done = mstar("report", "searches", "--count", "10", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "simulated.json").read_text())
    assert set(found["flat"]) == {"2", "5", "9", "14"}
    assert (tmp_path / "simulated.png").stat().st_size > 10_000
