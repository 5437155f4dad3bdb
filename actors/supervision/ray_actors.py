"""The actors of one pool, on Ray: launched, called, waited for and ended.

Each actor gets a placement group of its own with one bundle, so an engine fits in anywhere and its
GPUs are on one node. A group that nothing can hold yet waits, and the cluster's autoscaler sees it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

DRAINING_S = 5.0  # between two looks at which nodes are being drained

ANSWER_S = 5  # for the control store, asked when a wait is told

# Resources that Ray names by itself; all others are a person's.
_OF_RAY = re.compile(r"^(CPU|GPU|memory|object_store_memory)$|:|_group_")


@dataclass(frozen=True)
class ActorOptions:
    """What one actor asks of Ray. bundle: sizes of resources, by Ray's names. threads: calls at a
    time. environment: variables of its process. here: it runs on this process's own node, beside
    what else is there, and asks for no room."""

    bundle: Mapping[str, float] = field(default_factory=dict)
    threads: int = 3
    environment: Mapping[str, str] = field(default_factory=dict)
    here: bool = False

    def __str__(self) -> str:
        return _words(self.bundle)


class ActorLost(Exception):
    """An actor died or raised. node_gone: its node was drained, preempted or died, which is no
    fault of the actor or of what it worked on. unreachable: it does not answer, and whether it is
    its node that died the cluster finds out later (`Actors.gone`)."""

    def __init__(self, reason: str, *, node_gone: bool = False, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node_gone = node_gone
        self.unreachable = unreachable


@dataclass(eq=False)
class Launched:
    """An actor, from when it is asked for. node: where it runs, once it has answered."""

    actor: Any
    group: Any = None
    node: str = ""


class Actors(Protocol):
    """Where the actors of a pool run. References are opaque and can be keys. args: what each actor
    is made with."""

    @property
    def args(self) -> tuple[Any, ...]: ...

    def launch(self) -> Launched:
        """Ask for one more actor; returns at once, whether there is room or not."""

    def locate(self, launched: Launched) -> Any:
        """Ask an actor where it runs: the reference's value is the node, once it lives."""

    def call(self, launched: Launched, method: str, *args: Any) -> Any:
        """Call a method; a reference to its answer."""

    def ended(self, references: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Those that have an answer or never will, as soon as there is one, within `timeout_s`."""

    def value(self, launched: Launched, reference: Any) -> Any:
        """An answer. Raises ActorLost."""

    def gone(self, launched: Launched) -> bool:
        """Whether the node that it ran on is known to be dead."""

    def has_room(self, launched: Launched) -> bool:
        """Whether its resources are reserved for it."""

    def free(self) -> str:
        """What the cluster has free, in words."""

    def leaving(self) -> frozenset[str]:
        """The nodes that are being drained: what is there should move."""

    def end(self, launched: Launched) -> None:
        """Kill an actor, and let go of its room."""


class RayActors:
    """Actors of one class in this process's Ray cluster."""

    def __init__(self, actor: type, args: Sequence[Any], options: ActorOptions) -> None:
        self.args = tuple(args)
        self._actor = ray.remote(actor)
        self._options = options
        self._looked = float("-inf")
        self._leaving: frozenset[str] = frozenset()

    def launch(self) -> Launched:
        group, place = self._place()
        actor = self._actor.options(
            **place,
            max_concurrency=self._options.threads,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": dict(self._options.environment)},
        ).remote(*self.args)
        return Launched(actor, group)

    def _place(self) -> tuple[PlacementGroup | None, dict[str, Any]]:
        options = self._options
        if options.here:
            node = ray.get_runtime_context().get_node_id()
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            return None, {"num_cpus": 0, "scheduling_strategy": strategy}
        others = dict(options.bundle)
        group = placement_group([dict(others)], strategy="STRICT_PACK")
        return group, {
            "num_cpus": others.pop("CPU", 0.0),
            "num_gpus": others.pop("GPU", 0.0),
            "resources": others,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, 0),
        }

    def locate(self, launched: Launched) -> Any:
        return launched.actor.__ray_call__.remote(_node_of)

    def call(self, launched: Launched, method: str, *args: Any) -> Any:
        return getattr(launched.actor, method).remote(*args)

    def ended(self, references: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        if not references:
            time.sleep(timeout_s)
            return ()
        ray.wait(list(references), num_returns=1, timeout=timeout_s)
        ended, _ = ray.wait(list(references), num_returns=len(references), timeout=0)
        return ended

    def value(self, launched: Launched, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except RayActorError as error:
            gone = error.preempted or self.gone(launched)
            unreachable = isinstance(error, ActorUnavailableError)
            raise ActorLost(_reason(error), node_gone=gone, unreachable=unreachable) from error
        except RayError as error:
            raise ActorLost(_reason(error)) from error

    def gone(self, launched: Launched) -> bool:
        node = launched.node
        return any(each["NodeID"] == node and not each["Alive"] for each in ray.nodes())

    def has_room(self, launched: Launched) -> bool:
        return launched.group is None or bool(launched.group.wait(timeout_seconds=0))

    def free(self) -> str:
        return free_resources()

    def leaving(self) -> frozenset[str]:
        now = time.monotonic()
        if now - self._looked >= DRAINING_S and not self._options.here:
            from ray._private.state import state

            self._looked = now
            self._leaving = frozenset(state.get_draining_nodes())
        return self._leaving

    def end(self, launched: Launched) -> None:
        ray.kill(launched.actor, no_restart=True)
        if launched.group is not None:
            remove_placement_group(launched.group)


def free_resources() -> str:
    """What of the cluster's resources nothing holds, and all it has; and for what of all that is
    asked for its autoscaler can start no node."""
    free, there = ray.available_resources(), ray.cluster_resources()
    others = sorted(key for key in there if not _OF_RAY.search(key))
    words = " and ".join(
        f"{free.get(key, 0.0):g} of {there.get(key, 0.0):g} {key}"
        for key in ("CPU", "GPU", *others)
    )
    hopeless = [_words(bundle) for bundle in _without_node_type()]
    if not hopeless:
        return words
    return f"{words}; the autoscaler has no node type left with room for {', '.join(hopeless)}"


def _words(bundle: Mapping[str, float]) -> str:
    return " and ".join(f"{size:g} {key}" for key, size in bundle.items()) or "nothing"


def _without_node_type() -> list[dict[str, float]]:
    """The bundles that wait and that the autoscaler says it can start no node for (its types are
    too small, or as many as they may be); none where there is no autoscaler that says so."""
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
    from ray.exceptions import RpcError

    reply = GetClusterStatusReply()
    with suppress(RpcError):  # of a control store that is busy: said the next time
        reply.ParseFromString(global_worker.gcs_client.get_cluster_status(timeout_s=ANSWER_S))
    state, found = reply.autoscaling_state, []
    groups = (gang.requests for gang in state.infeasible_gang_resource_requests)
    for request in (*state.infeasible_resource_requests, *chain.from_iterable(groups)):
        bundle = dict(sorted(request.resources_bundle.items()))
        if bundle not in found:
            found.append(bundle)
    return found


def _node_of(_: Any) -> str:
    """The node that this actor runs on."""
    return str(ray.get_runtime_context().get_node_id())


def _reason(error: RayError) -> str:
    """One line of what happened; Ray's own texts are a page."""
    if isinstance(error, RayTaskError):
        return f"it raised {type(error.cause).__name__}: {error.cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
