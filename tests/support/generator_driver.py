"""A driver of one pool of generators, in a process that a test can kill.

    python -m tests.support.generator_driver STORE CACHE POLICY_VERSION POLICY_PATH

Has three shards generated, prints how each ended as one line of JSON, and waits.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from actors.generation.engine_settings import EngineSettings
from actors.generation.generator import GeneratorActor, ShardWork
from actors.supervision.pool import Pool, PoolSettings, Result
from actors.supervision.process_guard import guard
from jobs.runtime.ray_cluster import init_ray
from pipeline.config.schema import Data
from pipeline.generation.shards import SamplingParams, shard_specs
from pipeline.prompts import PromptTemplates
from pipeline.query import Query
from pipeline.refs import PolicyRef
from pipeline.storage.store import Store, open_store
from tests.support.models import make_images

IMAGES = make_images(4)

ENGINE = EngineSettings(
    precision="float32", max_model_len=256, max_sequences=64, kv_cache_gib=0.25, threads=1
)


def works(policy: PolicyRef) -> list[ShardWork]:
    """Three shards of four queries, four samples of each."""
    shown = tuple(IMAGES)
    queries = [
        Query(f"q{i}", shown[i % 4 : i % 4 + 1], f"What is {i}?", None, "7", "number")
        for i in range(12)
    ]
    specs = shard_specs(
        "test",
        queries,
        policy=policy.version,
        sampling=SamplingParams(4, 1.0, 1.0, 24),
        engine=ENGINE.identity(),
        run_seed=0,
        shard_queries=4,
        templates=PromptTemplates(),
    )
    parts = (tuple(queries[i : i + 4]) for i in range(0, 12, 4))
    return [ShardWork(spec, policy, part) for spec, part in zip(specs, parts, strict=True)]


def main(store: Store, cache: str, policy: PolicyRef) -> None:
    """Everything is done once, then nothing happens until the process is ended."""
    guard()
    init_ray({"num_cpus": 2, "include_dashboard": False, "log_to_driver": False})
    settings = PoolSettings(cpus=1.0, inflight=2, environment=ENGINE.environment())
    pool = Pool(GeneratorActor, [Data(), ENGINE, store, cache], settings)
    for work in works(policy):
        pool.submit(work)
    ended: list[Result] = []
    while pool.outstanding:
        ended += pool.poll(1.0)
    print(json.dumps([asdict(result) for result in ended]), flush=True)
    input()


if __name__ == "__main__":
    main(open_store(sys.argv[1]), sys.argv[2], PolicyRef(*sys.argv[3:]))
