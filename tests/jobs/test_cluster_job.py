"""A run on a cluster: what must not rest on one node's disk, and what a submitted job knows."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from jobs.run import evolve
from jobs.runtime.cluster_job import SUBMITTED, check_shared, job_metadata, on_its_cluster
from jobs.runtime.code_identity import ROOT, code_hash, say_code
from jobs.runtime.worker_environment import chain_names, environment_hook
from pipeline.config.fields import to_dict
from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from tests.support.jobs import SCRIPTED, job_config, mstar, run_command


def settings(**sections: dict[str, Any]) -> Config:
    plain = to_dict(Config())
    for name, section in sections.items():
        plain[name] |= section
    return config_from_dict(plain)


CLUSTER = {"address": "10.0.0.1:6379"}

SHARED = {"store": {"url": "s3://bucket/prefix"}, "run": {"out": "/var/tmp/out"}}


def test_a_run_on_one_machine_may_keep_everything_there() -> None:
    check_shared(settings())


def test_a_run_on_a_cluster_with_object_storage_and_an_absolute_folder_is_fine() -> None:
    check_shared(settings(cluster=CLUSTER, **SHARED))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({**SHARED, "store": {"url": None}}, "store.url is not set: .*s3://bucket/prefix"),
        ({**SHARED, "store": {"url": "/data/store"}}, "store.url = /data/store: one node's disk"),
        ({**SHARED, "store": {"url": "file:///data"}}, "store.url = file:///data: one node's"),
        ({**SHARED, "run": {"out": "out"}}, f"run.out = out: .*{Path.cwd()}.*absolute"),
    ],
)
def test_what_would_rest_on_one_nodes_disk_is_refused_by_its_key(
    sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadConfig, match=message) as caught:
        check_shared(settings(cluster=CLUSTER, **sections))
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(BadConfig) as caught:
        check_shared(settings(cluster=CLUSTER))
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines] == ["store.url", "run.out"]


def test_a_submitted_job_joins_the_cluster_it_was_submitted_to() -> None:
    job = {SUBMITTED: "{}", "RAY_ADDRESS": "10.0.0.9:6379"}
    assert on_its_cluster(settings(), job).cluster.address == "auto"
    assert on_its_cluster(settings(cluster=CLUSTER), job).cluster.address == CLUSTER["address"]
    alone = {"RAY_ADDRESS": "10.0.0.9:6379"}
    assert on_its_cluster(settings(), alone).cluster.address is None


def test_a_submitted_job_is_refused_before_it_writes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SUBMITTED, "{}")
    monkeypatch.chdir(tmp_path)
    config = job_config(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused = run_command(config, tmp_path)
    assert refused.exit_code == 2
    assert "store.url is not set" in refused.output
    (tmp_path / "recipe.yaml").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_metadata_of_the_job_name_the_commit() -> None:
    job = {SUBMITTED: json.dumps({"runtime_env": {}, "metadata": {"commit": "abc"}})}
    assert job_metadata(job) == {"commit": "abc"}
    assert job_metadata({}) == {}


# --- the AWS chain of workers ---------------------------------------------------------------------

DRIVER = {
    "AWS_ACCESS_KEY_ID": "key-of-driver",
    "AWS_SECRET_ACCESS_KEY": "secret-of-driver",
    "AWS_ENDPOINT_URL": "http://driver:9000",
    "AWS_PROFILE": "driver",
    "HOME": "/root",
}

RUN_HOOK = """
import pickle, sys, os, json
pickle.loads(sys.stdin.buffer.read())()
print(json.dumps({name: value for name, value in os.environ.items() if name.startswith("AWS")}))
"""


def worker_environment(own: dict[str, str]) -> dict[str, str]:
    """What a worker process that has `own` variables has after the hook. It has none of our code,
    and runs elsewhere."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN_HOOK],
        input=cloudpickle.dumps(environment_hook(DRIVER)),
        env=own,
        cwd="/",
        capture_output=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def test_names_are_all_that_is_said() -> None:
    assert chain_names(DRIVER) == [
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_PROFILE",
    ]  # fmt: skip
    assert "secret" not in repr(environment_hook(DRIVER))


def test_a_worker_gets_the_drivers_variables() -> None:
    assert worker_environment({}) == {
        name: value for name, value in DRIVER.items() if name != "HOME"
    }


def test_what_a_node_sets_itself_stays() -> None:
    found = worker_environment({"AWS_ENDPOINT_URL": "http://node", "AWS_REGION": "eu-west-1"})
    assert found["AWS_ENDPOINT_URL"] == "http://node"
    assert found["AWS_REGION"] == "eu-west-1"
    assert found["AWS_SECRET_ACCESS_KEY"] == "secret-of-driver"


def test_a_nodes_own_credentials_are_not_mixed_with_the_drivers() -> None:
    found = worker_environment({"AWS_ACCESS_KEY_ID": "key-of-node"})
    assert found["AWS_ACCESS_KEY_ID"] == "key-of-node"
    assert "AWS_SECRET_ACCESS_KEY" not in found


def test_the_hook_can_be_pickled_again() -> None:
    again = pickle.loads(cloudpickle.dumps(environment_hook(DRIVER)))  # noqa: S301
    assert callable(again)


# --- which code runs ------------------------------------------------------------------------------


def test_equal_code_has_equal_hashes_and_an_edit_another(tmp_path: Path) -> None:
    for package in ("actors", "cluster", "jobs", "pipeline"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    assert code_hash(tmp_path) == code_hash()
    (tmp_path / "README.md").write_text("not code")
    assert code_hash(tmp_path) == code_hash()
    file = tmp_path / "jobs" / "recipes" / "tiny.yaml"
    file.write_text(file.read_text() + "\n")
    assert code_hash(tmp_path) != code_hash()


def test_the_log_names_files_and_where_modules_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    say_code(said.append)
    assert len(said) == 1
    assert f"files {code_hash()}, modules from {ROOT}" in said[0]
    # an installed copy wins over what was submitted
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "run.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SUBMITTED, "{}")
    say_code(said.append)
    assert said[2].startswith(f"warning: modules come from {ROOT}, not from what was submitted")
    assert str(tmp_path) in said[2]


def test_the_version_names_the_code() -> None:
    shown = mstar("--version").output
    assert code_hash() in shown


# --- outputs in the store -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a finished run whose driver's node is gone."""
    folder = tmp_path_factory.mktemp("run")
    least: dict[str, dict[str, Any]] = {
        "warmup": {"samples": 1, "queries": 4, "epochs": 1, "flat_evaluations": 1},
        "evolve": {"iterations": 1, "interval": 1 / 3, "control": False},
        "evaluate": {"samples": 0, "shard_queries": 5},
    }
    store = folder / "store"
    evolve(job_config(folder, str(store), **least), parts=SCRIPTED)
    shutil.rmtree(folder / "out")
    return store


def test_a_run_can_be_looked_at_from_its_store_alone(elsewhere: Path) -> None:
    shown = mstar("status", elsewhere)
    assert shown.exit_code == 0, shown.output
    assert "finished" in shown.output


def test_a_persons_files_are_in_the_store_and_come_back(elsewhere: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    fetched = mstar("export", "outputs", elsewhere, "--to", folder)
    assert fetched.exit_code == 0, fetched.output
    assert json.loads((folder / "summary.json").read_text())["finished"]
    assert any((folder / "cards").iterdir())
    assert any((folder / "tensorboard").iterdir())


def test_outputs_are_not_fetched_over_what_is_there(elsewhere: Path, tmp_path: Path) -> None:
    refused = mstar("export", "outputs", elsewhere, "--to", tmp_path)
    assert refused.exit_code == 2
    assert "is there already" in refused.output
