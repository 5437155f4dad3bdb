"""The store as a role on some node first reaches it: tried at once, and a refusal names the node.

The driver has tried the store before anything started, with the credentials of its own node. A
worker has its node's, and what the driver gave it; where that is not enough, the first request says
so, in words that a person can act on, and not each shard of the run.
"""

from __future__ import annotations

import socket

from pipeline.errors import BadConfig, StoreRefused
from pipeline.storage.store import Store

ASKED = "probe/of-a-worker"
"""A path that is asked for; that nothing is there is an answer."""


def reach_store(store: Store, role: str) -> Store:
    """The same store, which has answered this process once.

    role: what this process is, for the message.

    Raises:
        BadConfig: it refuses this node. StoreUnavailable: it does not answer.
    """
    try:
        store.exists(ASKED)
    except StoreRefused as error:
        raise BadConfig(
            f"{role} on node {node_name()}: {error} The driver reaches this store and that node "
            "does not: give the node's role or service account the same rights, or start the "
            "driver with the AWS_* variables that every node needs"
        ) from error
    return store


def node_name() -> str:
    """This node, as a person finds it: host and address, and Ray's id where there is one."""
    import ray

    if not ray.is_initialized():
        return socket.gethostname()
    context = ray.get_runtime_context()
    address = ray.util.get_node_ip_address()
    return f"{socket.gethostname()} ({address}, Ray's {context.get_node_id()[:12]})"
