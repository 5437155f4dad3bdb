"""Data in published forms through `validate`: every form over scripted roles, two with real ones.

The scripted engine knows no tokens, so its verdict on them is not looked at here; what is tried is
that the data are read, checked against the policy's own processor, uploaded and asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.run import evolve
from jobs.runtime.check_queries import check_queries
from jobs.runtime.prepare import load_data, out_folder, store_url
from jobs.validate import validate
from pipeline.config.fields import to_dict
from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.records import Rollout
from pipeline.run.spec import RunSpec
from pipeline.storage.artifacts import ROLLOUTS, read_rows
from pipeline.storage.store import open_store
from tests.support import published
from tests.support.jobs import FAKE_MODELS, SCRIPTED, job_config

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "assets" / "digits-base"


def asked_of_digits(program: RunSpec, *rest: Any) -> None:
    """Questions and pictures are tried with a real processor, whose model nothing is asked of."""
    policy = program.config.policy.model_copy(update={"path": str(BASE)})
    config = program.config.model_copy(update={"policy": policy})
    check_queries(replace(program, config=config), *rest)


PARTS = replace(SCRIPTED, check_queries=asked_of_digits)


FORMS = (
    published.mathv360k, published.llava_cot, published.easyr1, published.virl39k,
    published.mmk12, published.mmmu, published.m3cot, published.mathvista_json,
    published.mathvista_parquet, published.mathvista_tsv, published.mathverse, published.ai2d,
    published.mmstar_parquet, published.mmbench, published.mmstar_tsv, published.ai2d_tsv,
    published.verl,
)  # fmt: skip


def settings(folder: Path, data: Path) -> Config:
    plain = to_dict(job_config(folder))
    plain["generate"] |= {"max_model_len": 1024, "max_new_tokens": 64, "max_bad_queries": 5}
    plain["data"] |= {"path": str(data), "max_bad_rows": 3}
    if data.is_dir() and not list(data.glob("validation*")):
        plain["data"] |= {"validation": "test", "test": ["none"]}
    return config_from_dict(plain)


@pytest.mark.parametrize("write", FORMS, ids=[form.__name__ for form in FORMS])
def test_every_form_goes_through_validate(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    (tmp_path / "data").mkdir()
    said: list[str] = []
    validate(settings(tmp_path, write(tmp_path / "data")), 1, said.append, PARTS, FAKE_MODELS)
    text = "\n".join(said)
    assert "=== query" in text
    assert "verdict:" in text
    assert "one training step on" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("write", [published.mathv360k, published.mmbench])
def test_with_the_real_engine_and_learner(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    (tmp_path / "data").mkdir()
    changes = {
        "run.out": tmp_path / "out", "data.path": write(tmp_path / "data"), "data.max_bad_rows": 3,
        "data.test": "[test]", "generate.max_model_len": 1024, "generate.max_bad_queries": 5,
        "cluster.node_cache": tmp_path / "cache",
    }  # fmt: skip
    command = [sys.executable, "-m", "jobs", "validate", "--recipe", "tiny", "--samples", "2"]
    command += [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=850,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "prompt tokens are equal in engine and processor for 5 of 5 queries" in done.stdout
    assert "log-probabilities differ by" in done.stdout
    assert "one training step on" in done.stdout


def test_mathv360k_in_the_papers_split_through_a_run(tmp_path: Path) -> None:
    """Half of it is trained on; the rest of the other half, whose answers are hidden, is not."""
    (tmp_path / "data").mkdir()
    path = published.digits_as_mathv360k(tmp_path / "data", 120)
    plain = to_dict(job_config(tmp_path))
    plain["data"] |= {"path": str(path), "split": "mstar", "test": ["test"]}
    config = config_from_dict(plain)
    evolve(config, parts=SCRIPTED)
    summary = json.loads((out_folder(config) / "summary.json").read_text())
    assert {"base", "warmup", "final"} <= set(summary)
    assert summary["final"]["test"]["n"] == 12
    dataset = load_data(config, lambda line: None)
    pool = {query.query_id for query in dataset.split("train") if not query.unlabelled}
    assert len(pool) == 60
    store = open_store(store_url(config))
    asked = {
        query.query_id
        for shard in store.list(f"shards/{ROLLOUTS}")
        for query in read_rows(store, shard, Rollout)
    }
    assert asked - pool == {
        query.query_id for query in dataset.queries if query.split in ("validation", "test")
    }
