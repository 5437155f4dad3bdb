"""What a run's cluster can ever hold, asked of Ray's autoscaler where it has one.

A demand above what the cluster has now is no error there: its roles wait for room and say so. Only
what no node type can give, whatever the autoscaler does, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.config.capacity import NodeType, autoscaled, check_capacity, declared, demands
from pipeline.config.schema import Config

AUTOSCALING = "--autoscaling-config="


def check_joined(config: Config, say: Callable[[str], None]) -> None:
    """Refuse what the cluster that was joined can never hold; say what has to be waited for.

    Raises:
        BadConfig: with the numbers.
    """
    import ray

    types = declared(config) or node_types()
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    now = NodeType("now", cpus, gpus, others=there)
    check_capacity(config, types, now)
    short = [str(demand) for demand in demands(config) if now.holds(demand) < demand.actors]
    if short:
        able = f"node types: {', '.join(map(str, types))}" if types else "no node types known"
        say(
            f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs now ({able}), so these wait for "
            f"nodes to come: {'; '.join(short)}"
        )


def node_types() -> list[NodeType]:
    """The node types of the cluster's autoscaler, as it reports them or, since Ray's own reports
    none, as it was started on this node; none: there is none, or it runs elsewhere."""
    import ray
    from ray._private.state import state

    found = state.get_cluster_config()
    if found is not None and found.node_group_configs:
        groups = found.node_group_configs
        return [_node_type(group) for group in groups if group.max_count and group.resources]
    file = autoscaling_file(ray.get_runtime_context().gcs_address)
    return [] if file is None else autoscaled(yaml.safe_load(file.read_text("utf-8")))


def autoscaling_file(address: str) -> Path | None:
    """What the autoscaler of the cluster at `address` was started with, if it runs on this node (a
    submitted job's driver does, on the head); its command line names the file."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            names = [word for word in words if word.startswith(AUTOSCALING)]
            if names and f"--gcs-address={address}" in words:
                return Path(names[0].removeprefix(AUTOSCALING))
    return None


def _node_type(group: Any) -> NodeType:
    """One group of the autoscaler's configuration; -1 stands for any number."""

    def of(key: str) -> float:
        size = float(group.resources.get(key, 0))
        return math.inf if size < 0 else size

    most = math.inf if group.max_count < 0 else float(group.max_count)
    others = {key: of(key) for key in group.resources}
    return NodeType(group.name, of("CPU"), of("GPU"), most, others)
