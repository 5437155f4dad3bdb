"""`mstar-ray plan`: of recipes, of a run that is measured, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.plan import measure
from jobs.run import evolve
from jobs.runtime.prepare import out_folder
from pipeline.config.schema import Config
from tests.support.jobs import SCRIPTED, job_config, mstar

DATA = ("--queries", "train=180000", "--queries", "validation=250", "--queries", "test=750")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = job_config(tmp_path_factory.mktemp("job"))
    evolve(config, parts=SCRIPTED)
    return config


def test_a_run_is_measured_and_planned_from_its_store(finished: Config, tmp_path: Path) -> None:
    folder = out_folder(finished)
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    run = measure(str(folder))
    assert {one.stage for one in run.sets} >= {"base/evaluate", "warmup/generate"}
    assert run.sizes["train"] == 12
    assert all(one.bytes["rollout"] > 0 for one in run.sets)
    # the scripted policy is no model, so its shape is taken from a family
    done = mstar(
        "plan", folder, "--set", "policy.path=/models/SmolVLM2-256M", "--json", tmp_path / "p.json"
    )
    assert done.exit_code == 0, done.output
    assert f"measured in run {finished.run.name}" in done.output
    plain = json.loads((tmp_path / "p.json").read_text())
    samples = {stage["name"]: stage["samples"] for stage in plain["stages"]}
    assert samples["warmup/generate"] == sum(
        one.samples for one in run.sets if one.stage == "warmup/generate"
    )
    assert samples["evolve/generate"] == sum(
        one.samples for one in run.sets if one.stage == "evolve/generate"
    )
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


def test_counts_are_compared() -> None:
    done = mstar(
        "plan", "--recipe", "cluster", *DATA, "--set", "policy.path=/m/Qwen2.5-VL-7B-Instruct",
        "--compare", "prm.scorers=1,3", "--compare", "generate.engines=8,40",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = [line for line in done.output.splitlines() if line.startswith("prm.scorers=")]
    assert len(rows) == 4
    hours = {row[: row.index("  ")]: float(row.split()[-5].replace(",", "")) for row in rows}
    few, more = (hours[f"prm.scorers={n} generate.engines=8"] for n in (1, 3))
    assert more < few


def test_what_cannot_fit_exits_with_2_and_the_numbers() -> None:
    done = mstar(
        "plan", "--recipe", "cluster", *DATA, "--set", "policy.path=/m/Qwen2.5-VL-7B-Instruct",
        "--set", "learn.ranks=2", "--gpu", "A100-40GB",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "a rank of the learner does not fit A100-40GB: it needs" in done.output
    assert "ranks it does with learn.zero_stage = 3" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--queries", "train"), "write it as SPLIT=N"),
        (("--queries", "train=none"), "write it as SPLIT=N"),
        (("--gpu", "H1000"), "did you mean"),
        (("--compare", "prm.scorers"), "write it as section.key=VALUE,VALUE"),
        (("--compare", "prm.scorer=1"), "unknown key 'prm.scorer'"),
        (("--set", "policy.path=/m/unheard-of"), "says none of the families"),
        (("out/nothing-there",), "holds no run"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], said: str) -> None:
    base = ("--set", "policy.path=/m/Qwen2.5-VL-7B", *DATA)
    recipe = () if "nothing" in arguments[0] else ("--recipe", "cluster")
    done = mstar("plan", *recipe, *base, *arguments)
    assert done.exit_code == 2, done.output
    assert said in done.output


def test_without_data_the_counts_are_asked_for() -> None:
    done = mstar("plan", "--recipe", "own", "--set", "policy.path=/m/SmolVLM2-256M")
    assert done.exit_code == 2
    assert "--queries train=N" in done.output
