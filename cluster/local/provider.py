"""How Ray's autoscaler starts and ends the nodes of a local cluster.

A variant of Ray's own `FakeMultiNodeProvider`, whose nodes share one view of the files: here each
has its own (`cluster.local.node`). It runs in the autoscaler's process on the head, which imports
it by the name that the cluster's configuration gives. A node that was killed is noticed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import RLock
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from cluster.local.mounts import own_view
from cluster.local.node import NodeSpec

HEAD, HEAD_TYPE = "head", "head"
END_S = 20.0

Tags = dict[str, str]


class LocalNodeProvider(NodeProvider):
    """Nodes by name, head and living workers.

    provider_config: `address` of the control store, the cluster's `folder`, what nodes see
    (`hidden`, `kept`, `cluster.local.mounts.hide`), and the names of the variables of this process
    that they do not get (`unset`).
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._lock = RLock()
        self._folder = Path(provider_config["folder"]) / "nodes"
        self._started = 0
        self._tags: dict[str, Tags] = {HEAD: _tags(HEAD, HEAD_TYPE, NODE_KIND_HEAD)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def non_terminated_nodes(self, tag_filters: Tags) -> list[str]:
        """The nodes that live and have these tags."""
        with self._lock:
            for name, process in list(self._processes.items()):
                if process.poll() is not None:
                    self._forget(name)
            wanted = tag_filters.items()
            return [name for name, tags in self._tags.items() if wanted <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        with self._lock:
            return node_id in self._tags

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> Tags:
        with self._lock:
            return self._tags[node_id]

    def external_ip(self, node_id: str) -> str:
        return node_id

    def internal_ip(self, node_id: str) -> str:
        return node_id

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: Tags,
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        """Start `count` nodes of a type."""
        for _ in range(count):
            with self._lock:
                self._started += 1
                name = f"node-{self._started}"
                node_type = tags[TAG_RAY_USER_NODE_TYPE]
                self._processes[name] = self._start(name, node_type, resources, labels)
                self._tags[name] = {**_tags(name, node_type, NODE_KIND_WORKER), **tags}

    def _start(
        self, name: str, node_type: str, resources: dict[str, float], labels: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        folder = self._folder / name
        folder.mkdir(parents=True)
        spec = NodeSpec(
            name=name,
            node_type=node_type,
            address=self.provider_config["address"],
            folder=str(folder),
            hidden=tuple(self.provider_config["hidden"]),
            kept=tuple(self.provider_config["kept"]),
            resources=resources,
            labels=labels,
        )
        unset = self.provider_config["unset"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                own_view(sys.executable, "-m", "cluster.local.node", spec.text()),
                stdin=subprocess.PIPE,  # closed when this process is gone, and the node ends
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if name not in unset},
                start_new_session=True,
            )
        (folder / "pid").write_text(str(process.pid))
        return process

    def terminate_node(self, node_id: str) -> None:
        """End a node; what does not end by itself is killed."""
        with self._lock:
            process = self._processes.get(node_id)
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with self._lock:
            self._forget(node_id)

    def _forget(self, name: str) -> None:
        self._processes.pop(name, None)
        self._tags.pop(name, None)
        (self._folder / name / "pid").unlink(missing_ok=True)

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Nothing to add."""
        return cluster_config


def _tags(name: str, node_type: str, kind: str) -> Tags:
    return {
        TAG_RAY_NODE_KIND: kind,
        TAG_RAY_USER_NODE_TYPE: node_type,
        TAG_RAY_NODE_NAME: name,
        TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
    }
