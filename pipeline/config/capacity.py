"""What a cluster can ever hold, and the demands that no node of it can: known before Ray is asked,
from the configuration, or from the node types of the cluster's autoscaler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import BadConfig


@dataclass(frozen=True)
class NodeType:
    """A kind of node. most: how many of it there can be at most. others: its custom resources;
    None: any."""

    name: str
    cpus: float
    gpus: float
    most: float = 1
    others: Mapping[str, float] | None = None

    def holds(self, demand: Demand) -> float:
        """How many of a role's actors such nodes hold together."""
        of_one = min(_times(self.cpus, demand.cpus), _times(self.gpus, demand.gpus))
        if demand.other is not None and self.others is not None:
            of_one = min(of_one, self.others.get(demand.other, 0.0) // 1)
        return of_one * self.most if of_one else 0.0

    def __str__(self) -> str:
        cpus, gpus, most = (
            "any" if math.isinf(size) else f"{size:g}" for size in (self.cpus, self.gpus, self.most)
        )
        return f"{self.name} ({cpus} CPUs, {gpus} GPUs, at most {most} such nodes)"


@dataclass(frozen=True)
class Demand:
    """What a role asks for at the least: so many actors, each with all it asks for on one node.
    other: the custom resource of which each takes one."""

    keys: str
    actors: int
    cpus: float
    gpus: float
    other: str | None = None

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"
        each += "" if self.other is None else f" and 1 {self.other}"
        return f"{self.keys} asks for {self.actors} times {each}"


def demands(config: Config) -> Iterator[Demand]:
    """What each role cannot do without. They take turns, so each is looked at alone."""
    generate, cluster, learn = config.generate, config.cluster, config.learn
    cpus, gpus = cluster.cpus_per_engine, cluster.gpus_per_engine * generate.tensor_parallel_size
    keys = "cluster.cpus_per_engine, gpus_per_engine x generate.tensor_parallel_size"
    other = cluster.engine_resource
    keys += "" if other is None else ", cluster.engine_resource"
    yield Demand(f"an engine ({keys})", max(1, cluster.min_engines or 0), cpus, gpus, other)
    if config.select.reward == "prm":
        scorers = max(1, cluster.min_scorers or 0)
        yield Demand("a scorer (as an engine)", scorers, cpus, gpus, other)
    ranks = "learn.ranks (cluster.cpus_per_rank, gpus_per_rank, rank_resource)"
    cpus, gpus = cluster.cpus_per_rank, cluster.gpus_per_rank
    yield Demand(ranks, learn.ranks, cpus, gpus, cluster.rank_resource)


def declared(config: Config) -> list[NodeType]:
    """The maximum that a configuration declares, as one node that has all of it; none: unknown."""
    cpus, gpus = config.cluster.most_cpus, config.cluster.most_gpus
    if cpus is None and gpus is None:
        return []
    given = "cluster.most_cpus and most_gpus"
    return [NodeType(given, math.inf if cpus is None else cpus, math.inf if gpus is None else gpus)]


def autoscaled(autoscaling: Mapping[str, Any]) -> list[NodeType]:
    """The node types of an autoscaler's configuration (`ray up`'s, or that of
    `ray start --autoscaling-config`); none where it does not say what a node has."""
    total, head = autoscaling.get("max_workers", math.inf), autoscaling.get("head_node_type")
    found = []
    for name, kind in autoscaling["available_node_types"].items():
        if not kind.get("resources"):
            return []  # they are seen when such a node is there
        others = {key: float(size) for key, size in kind["resources"].items()}
        # The head is there besides those that the autoscaler starts.
        most = min(float(kind.get("max_workers", total)), float(total)) + (name == head)
        found.append(NodeType(name, others.get("CPU", 0.0), others.get("GPU", 0.0), most, others))
    return found


def check_capacity(config: Config, types: Sequence[NodeType], now: NodeType | None = None) -> None:
    """Refuse what a cluster of these node types can never hold; without any nothing is known.

    now: all that it has, as one node: it may hold nodes of no type, which somebody added.

    Raises:
        BadConfig: with the numbers of every such role.
    """
    there = [] if now is None else [now]
    problems = [
        f"{demand}, and {held:g} of them is all that there is ever room for: "
        f"{', '.join(map(str, types))}"
        for demand in demands(config)
        if (held := sum(each.holds(demand) for each in types)) < demand.actors
        and all(each.holds(demand) < demand.actors for each in there)
    ]
    if types and problems:
        raise BadConfig("\n".join(problems))


def _times(there: float, each: float) -> float:
    """How often a resource is there."""
    return there // each if each and there < math.inf else math.inf
