"""The generator in its Ray actor, under a pool, with the real vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.generation.engine_settings import EngineSettings
from actors.model.images import image_path
from pipeline.records import Rollout
from pipeline.storage.artifacts import get_verified
from pipeline.storage.models import publish_folder
from pipeline.storage.parquet import from_parquet
from pipeline.storage.store import open_store
from tests.support.models import make_images, make_policy
from tests.support.processes import processes

# An engine starts in it, and on a busy machine its processes end late.
pytestmark = pytest.mark.timeout(600)

REPOSITORY = Path(__file__).resolve().parents[3]

SETTINGS = EngineSettings(
    precision="float32", max_model_len=256, max_sequences=64, kv_cache_gib=0.25, threads=1
)

FILES = make_images(4)

IMAGES = tuple(FILES)

DRIVER = """
import json, os, sys
from actors.supervision.process_guard import guard
watcher = guard()
from pathlib import Path
from actors.generation.engine_settings import EngineSettings
from actors.generation.generator import GeneratorActor, GeneratorSettings
from actors.supervision.pool import Pool, PoolSettings
from jobs.runtime.ray_cluster import init_ray
store, cache, specs, settings = sys.argv[1:]
engine = EngineSettings(**json.loads(settings))
init_ray({"num_cpus": 2, "include_dashboard": False, "log_to_driver": False})
pool = Pool(
    GeneratorActor,
    [GeneratorSettings(engine, store, cache)],
    PoolSettings(cpus=1.0, inflight=2, environment=engine.environment()),
)
for spec in json.loads(Path(specs).read_text()):
    pool.submit(spec)
ended = []
while pool.outstanding:
    ended += pool.poll(1.0)
print(json.dumps([[one.spec_id, one.value, str(one.failure)] for one in ended]), flush=True)
input()
"""


def test_a_pool_of_generators_writes_shards_and_leaves_no_process(tmp_path: Path) -> None:
    """Two shards in flight on one engine, then the driver is killed."""
    store = open_store(tmp_path / "store")
    policy = publish_folder(store, make_policy(tmp_path / "policy", 0))
    for sha, data in FILES.items():
        store.put(image_path(sha), data)
    specs = [_spec(policy.version, policy.path, number) for number in range(3)]
    (tmp_path / "specs.json").write_text(json.dumps(specs))
    driver = subprocess.Popen(
        [
            *(sys.executable, "-c", DRIVER, str(tmp_path / "store"), str(tmp_path / "cache")),
            *(str(tmp_path / "specs.json"), json.dumps(asdict(SETTINGS))),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    ended = json.loads(driver.stdout.readline())
    assert {one[0] for one in ended} == {spec["id"] for spec in specs}
    for _, value, failure in ended:
        assert failure == "None"
        rows = from_parquet(get_verified(store, value["rollout"]), Rollout)
        assert len(rows) == value["rows"] == 16
        assert len({row.seed for row in rows}) == 16
    family = psutil.Process(driver.pid).children(recursive=True)
    assert processes("GeneratorActor", of=driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(family, timeout=180)
    assert not alive


def _spec(policy: str, path: str, number: int) -> dict[str, Any]:
    groups = [
        {
            "query": f"{number}{index}",
            "query_id": f"q{number}{index}",
            "text": f"What is {number} and {index}?",
            "images": list(IMAGES[index : index + 1]),
            "seeds": [1000 * number + 10 * index + k for k in range(4)],
            "first_index": 0,
            "prefix_token_ids": [],
        }
        for index in range(4)
    ]
    return {
        "id": f"shard-{number}",
        "key": f"question-{number:016x}",
        "policy": policy,
        "policy_path": path,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": 24,
        "groups": groups,
    }
