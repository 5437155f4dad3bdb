"""One worker node of a local cluster: `python -m cluster.local.node SPEC`, in its own namespaces.

It takes its own view of the files (`cluster.local.mounts`), starts a raylet and stays until the
raylet ends, it is told to end (SIGTERM), or whoever started it is gone (its standard input closes).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.local.mounts import hide

OBJECT_STORE_BYTES = 256 << 20


@dataclass(frozen=True)
class NodeSpec:
    """What a node is. name: the autoscaler's for it. address: of the control store.

    folder: its own, for what it hides and works in. resources: logical, `CPU` among them.
    """

    name: str
    node_type: str
    address: str
    folder: str
    hidden: tuple[str, ...]
    kept: tuple[str, ...]
    resources: dict[str, float]
    labels: dict[str, str]

    def text(self) -> str:
        """As it is handed to the node."""
        return json.dumps(asdict(self))


def run_node(spec: NodeSpec) -> None:
    """Be the node until its raylet ends."""
    folder = Path(spec.folder)
    hide([Path(each) for each in spec.hidden], [Path(each) for each in spec.kept], folder)
    os.chdir("/")
    node = _start(spec)
    signal.signal(signal.SIGTERM, lambda *_: _end(node))
    threading.Thread(target=_until_alone, daemon=True).start()
    raylet = node.all_processes["raylet"][0].process
    while os.wait()[0] != raylet.pid:
        pass  # whatever a worker left to this first process


def _start(spec: NodeSpec) -> Any:
    import ray._private.node
    from ray._private import ray_constants
    from ray._private.parameter import RayParams

    resources = dict(spec.resources)
    options = RayParams(
        num_cpus=resources.pop("CPU", 0),
        num_gpus=resources.pop("GPU", 0),
        object_store_memory=OBJECT_STORE_BYTES,
        resources=resources,
        labels=spec.labels,
        gcs_address=spec.address,
        redis_address=spec.address,
        node_ip_address=spec.address.rpartition(":")[0],
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=0,
        env_vars={
            "RAY_CLOUD_INSTANCE_ID": spec.name,
            "RAY_NODE_TYPE_NAME": spec.node_type,
            ray_constants.RESOURCES_ENVIRONMENT_VARIABLE: json.dumps(resources),
        },
    )
    return ray._private.node.Node(options, head=False, shutdown_at_exit=False, spawn_reaper=False)


def _end(node: Any) -> None:
    node.kill_all_processes(check_alive=False, allow_graceful=True)
    os._exit(0)


def _until_alone() -> None:
    while sys.stdin.buffer.read(1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    run_node(NodeSpec(**json.loads(sys.argv[1])))
