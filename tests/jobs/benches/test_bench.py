"""What benches give: turns that alternate, ratios within a turn, a table and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from actors.model.value_head import read_head, read_likelihood
from jobs.bench import measured
from jobs.benches import BENCHES, scoring
from jobs.benches.generation import shortfall
from jobs.benches.record import Options, Result, by_turns, table
from jobs.runtime.recipes import load_recipe
from pipeline.errors import BadModel

ROOT = Path(__file__).resolve().parents[3]


def result(bar: float | None = 0.9) -> Result:
    return Result(
        name="generation",
        what="tokens",
        unit="tokens/s",
        values={"ours": [90.0, 200.0, 96.0], "bare": [100.0, 200.0, 100.0]},
        compared=("ours", "bare"),
        bar=bar,
        start_s={"ours": 12.0},
        peak_mib=1000.0,
    )


def test_turns_alternate_and_the_first_is_not_counted() -> None:
    called: list[tuple[str, int]] = []

    def measure(label: str, turn: int) -> float:
        called.append((label, turn))
        return float(turn)

    values = by_turns(3, a=lambda turn: measure("a", turn), b=lambda turn: measure("b", turn))
    assert values == {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]}
    assert [label for label, _ in called] == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert [turn for _, turn in called] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_ratios_are_taken_within_a_turn() -> None:
    found = result()
    assert found.ratios == [0.9, 1.0, 0.96]
    assert found.to_dict()["ratio"] == {"median": 0.96, "least": 0.9, "most": 1.0}
    assert found.reached is True
    assert result(bar=0.97).reached is False
    assert result(bar=None).reached is None


def test_the_table_says_what_was_not_reached() -> None:
    lines = table([result(), result(bar=0.97)]).splitlines()
    assert "0.960" in lines[2]
    assert "0.900 to 1.000" in lines[2]
    assert "reached" in lines[2]
    assert "NOT REACHED" in lines[3]


def test_a_row_that_sampled_too_few_tokens_reaches_no_bar() -> None:
    few = shortfall(ours=[90_000, 50_000, 50_000], bare=[0, 60_000, 39_999])
    assert few == "TOO FEW TOKENS: bare 99999 of 100000"
    assert shortfall(ours=[0, 50_000, 50_000], bare=[0, 100_000, 0]) == ""
    assert replace(result(), too_little=few).reached is False
    assert replace(result(bar=None), too_little=few).reached is None
    shown = table([replace(result(), too_little=few)])
    assert few in shown
    assert "reached" not in shown
    assert replace(result(), too_little=few).to_dict()["too_little"] == few


def test_every_row_names_a_function_that_exists() -> None:
    for place in BENCHES.values():
        module, _, function = place.partition(":")
        assert callable(getattr(import_module(module), function))


def test_a_row_is_measured_and_saved_and_leaves_nothing_else(tmp_path: Path) -> None:
    work = tmp_path / "work"
    options = Options(load_recipe("tiny"), work, rounds=1, small=True, say=lambda text: None)
    found = measured("imports", options, tmp_path)
    saved = json.loads((tmp_path / "imports.json").read_text())
    assert saved["values"]["pipeline"] == found.values["pipeline"]
    assert saved["small"] is True
    assert {"cpu", "cpus", "load"} == set(saved["machine"])
    assert saved["versions"]["python"]
    assert not work.exists()


def test_scoring_is_measured_as_the_recipe_scores_on_prompts_as_long_as_its_bar_is_about(
    tmp_path: Path,
) -> None:
    told = ["prm.log_likelihood=true", "prm.aggregate=mean", f"run.out={tmp_path / 'out'}"]
    config = load_recipe("tiny", told)
    options = Options(config, tmp_path / "work", rounds=1, small=True, say=lambda text: None)
    made = scoring.Bench(options)
    assert made.notes["prompt_tokens"] >= scoring.PROMPT_TOKENS == 100
    assert made.notes["head"] == "hidden state and log-likelihood"
    assert read_likelihood(made.folder) == scoring.LIKELIHOOD_WEIGHT != 0
    assert made._task(0, 0, made.queries[:1]).scoring.aggregate == "mean"
    policy = Path(made.config.policy.path)
    plain = scoring.with_noise(policy, tmp_path / "plain", likelihood=False)
    assert read_likelihood(plain) is None
    assert read_head(plain).any()
    with pytest.raises(BadModel, match=r"jobs/benches/scoring\.py"):
        made.shortest_prompt(made.notes["prompt_tokens"] + 1)


def bench(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.bench", "--out", str(out), *arguments],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    ended = bench(tmp_path, "--only", "genration")
    assert ended.returncode == 2
    hint = "error: --only genration: no such row: did you mean 'generation'? There are imports, "
    assert ended.stderr.startswith(hint)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_rows_with_engines_can_be_measured(tmp_path: Path) -> None:
    names = ["generation", "generation-deterministic", "learner", "learner-deterministic"]
    names += ["scoring", "scoring-reuse"]
    wanted = [word for name in names for word in ("--only", name)]
    ended = bench(tmp_path, "--small", *wanted)
    assert ended.returncode == 0, ended.stderr
    for name in names:
        saved = json.loads((tmp_path / f"{name}.json").read_text())
        assert min(min(values) for values in saved["values"].values()) > 0
        assert saved["peak_mib"] > 100
