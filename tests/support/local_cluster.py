"""A local cluster with a store whose keys only the head has, and jobs that are submitted to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cluster.local.cluster import LocalCluster, NodeType
from cluster.local.submission import ENDED, Ended, Submission, copy_checkout
from cluster.s3 import LocalS3
from pipeline.run.ledger import Ledger
from tests.support.s3_servers import BUCKET, aws_environment, bucket_store

LIMIT_S = 1200.0

# What every node has, as its image would set it: the CPU build's settings of `tests/conftest.py`.
NODE_SETTINGS = (
    "DS_ACCELERATOR", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM",
    "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENABLE_V1_MULTIPROCESSING",
)  # fmt: skip

# Ray waits for 3 s only before it kills what it stops, and builds what cannot be built three times.
PATIENCE = {"RAY_JOB_STOP_WAIT_TIME_S": "120", "RUNTIME_ENV_RETRY_TIMES": "1"}


class Jobs(Submission):
    """Jobs of a test. secret: the store's secret key. out: a folder of the head for what drivers
    write."""

    def __init__(self, cluster: LocalCluster, checkout: Path, secret: str) -> None:
        super().__init__(cluster, checkout)
        self.secret = secret
        self.out = cluster.folder.parent / "out"

    def end_of(self, name: str) -> Ended:
        """How a job ended, once it has."""
        return self.ended(name, LIMIT_S)

    def events(self, prefix: str, run: str) -> list[dict[str, Any]]:
        """What the ledger of a run says so far."""
        return list(Ledger(bucket_store(prefix), run).replay())

    def wait_for(
        self, name: str, prefix: str, run: str, reached: Callable[[list[dict[str, Any]]], bool]
    ) -> None:
        """Wait until a running job's ledger has come so far."""
        end = time.monotonic() + LIMIT_S
        while not reached(self.events(prefix, run)):
            assert self.status(name) not in ENDED, self.log(name)[-4000:]
            assert time.monotonic() < end, self.log(name)[-4000:]
            time.sleep(0.5)


OCCUPY = """
import json, ray, sys
ray.init(address=sys.argv[1], logging_level="ERROR")
group = ray.util.placement_group([json.loads(sys.argv[2])], lifetime="detached")
ray.get(group.ready())
"""


def occupy(cluster: LocalCluster, bundle: Mapping[str, float]) -> None:
    """Have somebody hold these resources of a cluster for as long as it lives."""
    command = [sys.executable, "-c", OCCUPY, cluster.address, json.dumps(bundle)]
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment = os.environ | cluster.environment() | loopback
    subprocess.run(command, env=environment, check=True, timeout=LIMIT_S)


@contextmanager
def submitting(
    folder: Path, node_types: Mapping[str, NodeType], *, head_cpus: float = 0.0
) -> Iterator[Jobs]:
    """A cluster with a store; folder: a short path."""
    with ExitStack() as stack:
        server = stack.enter_context(LocalS3(folder / "s3", bucket=BUCKET))
        stack.enter_context(aws_environment(server.environment()))
        head_only = server.keys_environment()
        nodes = {name: os.environ[name] for name in NODE_SETTINGS if name in os.environ}
        cluster = stack.enter_context(
            LocalCluster(
                folder / "c",
                node_types,
                environment={**nodes, **PATIENCE},
                head_environment=head_only,
                head_cpus=head_cpus,
            )
        )
        secret = head_only["AWS_SECRET_ACCESS_KEY"]
        yield Jobs(cluster, copy_checkout(folder / "checkout"), secret)
