"""Runs of an ablation with the real parts, one after the other in one process.

SFT and pseudo-labels are among them, and nothing of a run depends on what ran before it. About six
minutes on two idle cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.report import finished
from pipeline.audit.run import audit
from pipeline.reports.seeds import Finished
from pipeline.responses import extract_answer
from tests.support.main_job import LIMIT_S, ROOT, SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * LIMIT_S)]

ROWS: dict[str, Any] = {
    "kept": {},
    "gold": {"set": {"evolve.method": "sft"}, "steps_of": "kept"},
    "voted": {
        "set": {
            "data.unlabelled_share": 0.5,
            "unlabelled.use": "pseudo",
            "unlabelled.vote": "majority",
        }
    },
}


def command(*given: object) -> str:
    """What `mstar-ray` says; it ends with exit code 0."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *map(str, given)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    """A run of each row, done after each other; their figures are in `results.json`."""
    folder = tmp_path_factory.mktemp("ablate")
    recipe = {
        "base": "tiny",
        "seeds": [5, 6],
        "set": {
            **dict(yaml.safe_load(one.replace("=", ": ")).popitem() for one in SMALL),
            "run.out": str(folder / "out"),
            "run.deterministic": True,
            "cluster.node_cache": str(folder / "cache"),
            "select.rule": "all_correct",
            "evolve.final": "last",
            "evolve.interval": 0.5,
        },
        "tables": {"1": {"title": "rows", "baseline": "kept", "rows": ROWS}},
    }
    (folder / "tables.yaml").write_text(yaml.safe_dump(recipe))
    command("ablate", "--recipe", folder / "tables.yaml", "--seed", 5,
            "--json", folder / "results.json")  # fmt: skip
    rows = json.loads((folder / "results.json").read_text())
    return {row["row"]: finished(folder / "out", row["run"]) for row in rows}


def test_every_run_is_audited_clean(runs: dict[str, Finished]) -> None:
    assert runs.keys() == ROWS.keys()
    for run in runs.values():
        assert audit(run.store, run.name).problems == []


def test_later_runs_have_ray_engines_and_ranks_of_the_first(runs: dict[str, Finished]) -> None:
    logs = {
        row: (Path(run.spec.config.run.out) / run.name / "log.txt").read_text()
        for row, run in runs.items()
    }
    assert "starting Ray on this machine" in logs["kept"]
    for row in ("gold", "voted"):
        assert "those of the run before" in logs[row]
        assert "starting Ray" not in logs[row]


def test_sft_takes_the_steps_of_the_row_it_is_compared_with(runs: dict[str, Finished]) -> None:
    steps = {row: [one["steps"] for one in run.state.iterations] for row, run in runs.items()}
    assert sum(steps["gold"]) == sum(steps["kept"]) > 0
    assert not any(event.get("purpose", "").startswith("evolve") for event in runs["gold"].wires)


def test_pseudo_labels_are_trained_on_and_their_truth_is_told(runs: dict[str, Finished]) -> None:
    (row,) = runs["voted"].state.iterations
    told = row["unlabelled"]
    assert told["queries"] > 0
    assert told["known"] == told["pseudo_labels"] > 0
    assert 0.0 <= told["correct_pseudo_labels"] <= 1.0
    votes = [
        vote
        for event in runs["voted"].wires
        if event["type"] == "shard_graded" and event["purpose"].startswith("unlabelled/")
        for vote in event["votes"].values()
    ]
    assert votes
    assert all(extract_answer(f"# Answer\n\n{vote['answer']}") for vote in votes)


def test_a_run_alone_computes_the_same(runs: dict[str, Finished], tmp_path: Path) -> None:
    """The last row again, in a process and a store of its own: policies are equal to the bit."""
    run = runs["voted"]
    recipe = Path(run.spec.config.run.out) / run.name / "recipe.yaml"
    changes = [f"run.out={tmp_path}", "store.url=null", f"cluster.node_cache={tmp_path}/cache"]
    command("run", "--recipe", recipe, *(word for one in changes for word in ("--set", one)))
    alone = finished(tmp_path / run.name)
    assert alone.state.policies.keys() == run.state.policies.keys()
    for name, policy in run.state.policies.items():
        assert alone.state.policies[name].version == policy.version, name
        assert alone.state.policies[name].path == policy.path, name
