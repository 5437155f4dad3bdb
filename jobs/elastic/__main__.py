"""Nodes come, go and are killed, and nothing is lost: a submitted job on a cluster that breathes.

    make elastic                     # or: python -m jobs.elastic

One small deterministic recipe twice, on one local S3 server: alone on this machine, and through
`ray job submit` with token authentication on a local cluster (`cluster.local`) that begins without
a worker node, and whose nodes share no file system; each has a custom resource in a GPU's place, of
which an engine takes one, and the learner. There a node with an engine is killed in the
middle of a shard, and the learner's node in the middle of a job. The cluster must grow with the
work, shrink while the learner trains, grow again, and have no node in the end; both runs must have
selected the same rows and end with the same weights and moments, bit for bit; no accepted shard may
be generated twice. Writes <out>/elastic.json, and exits with 1 when anything of this does not hold.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.local.cluster import LocalCluster, NodeType, short_folder
from cluster.local.submission import Submission, copy_checkout
from cluster.s3 import LocalS3
from cluster.s3_proxy import S3Proxy, look_on
from jobs.chaos.runs import Bed, beside
from jobs.elastic.witness import LedgerSeen, Witness, summary_of
from jobs.runtime.cli import ending, say, write_json
from jobs.runtime.prepare import versions
from pipeline.datasets.dataset import check_writable

RECIPE = "elastic"

NODES = 3

# In a GPU's place: a node has CPUs for all roles at once, and one of this.
ACCELERATOR = "accelerator"
NODE = NodeType({"CPU": 2, ACCELERATOR: 1}, NODES)
ROLES = (
    f"cluster.engine_resource={ACCELERATOR}", f"cluster.rank_resource={ACCELERATOR}",
    "cluster.turn_s=5",
)  # fmt: skip

LIMIT_S = 3600.0
GONE_S = 120.0
"""For the nodes to go when the job has ended."""

JOB = "elastic"


def elastic(
    folder: Path, recipe: str, changes: Sequence[str], idle_s: float = 8.0
) -> dict[str, Any]:
    """Both runs, and what they show."""
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)  # every run begins in an empty store
    with LocalS3(folder / "s3") as server, S3Proxy(server.endpoint) as proxy:
        os.environ.update(server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint})
        bed = Bed(folder, server, proxy, config=recipe, changes=changes, say=say)
        say("the run on this machine alone")
        bed.undisturbed("alone", "generate.engines=1")
        say("the same run as a job on a cluster that begins without a node")
        keys = server.keys_environment() | {"AWS_ENDPOINT_URL": proxy.endpoint}
        with (
            short_folder() as own,
            LocalCluster(
                own,
                {"worker": NODE},
                idle_s=idle_s,
                head_environment=keys,
                hidden=[folder.absolute()],
            ) as cluster,
        ):
            found = _submitted(bed, cluster, recipe, changes)
        return found | {
            "seconds": round(time.monotonic() - started, 1),
            "versions": versions(),
        }


def _submitted(
    bed: Bed, cluster: LocalCluster, recipe: str, changes: Sequence[str]
) -> dict[str, Any]:
    """The run on the cluster, and how it compares."""
    seen = LedgerSeen(f"{bed.server.bucket}/cluster")
    bed.proxy.hook = seen
    job = Submission(cluster, copy_checkout(cluster.folder / "checkout"))
    witness = Witness(cluster, lambda: seen.events)
    places = [f"store.url={bed.url('cluster')}", f"run.out={cluster.folder / 'out'}"]
    job.submit(JOB, recipe, [*ROLES, *changes, *places])
    following = witness.follow()
    try:
        ended = job.ended(JOB, LIMIT_S)
    finally:
        witness.stop()
        following.join()
        bed.proxy.hook = look_on
        (bed.folder / "cluster.log").write_text(job.log(JOB), "utf-8")
    say(f"the job: {ended.status}, {ended.last_line}")
    found = beside(bed.events("alone"), bed.events("cluster"))
    if found["difference"] is not None:
        say(f"they differ: {found['difference']}")
    return {
        **summary_of(witness),
        **found,
        "status": ended.status,
        "last_line": ended.last_line,
        "doubled": seen.doubled,
        "nodes_left": _nodes_left(cluster),
    }


def _nodes_left(cluster: LocalCluster) -> int:
    """How many nodes there still are when the autoscaler had time to end them."""
    deadline = time.monotonic() + GONE_S
    while cluster.nodes and time.monotonic() < deadline:
        time.sleep(1.0)
    return len(cluster.nodes)


def holds(found: dict[str, Any]) -> bool:
    """Whether everything is as it must be."""
    return bool(
        found["status"] == "SUCCEEDED"
        and found["nodes_first"] == 0
        and found["nodes_max"] == NODES
        and found["shrank"]
        and found["grew_again"]
        and len(found["kills"]) == 2
        and found["learner_lost"] == 1
        and found["identical"]
        and not found["doubled"]
        and found["nodes_left"] == 0
    )


def main(
    recipe: Annotated[str, typer.Option(help="A recipe, deterministic.")] = RECIPE,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the result and the runs.")] = Path("out"),
) -> None:
    """A run on a cluster whose nodes come, go and are killed; 1 when it is not the same run."""
    with ending():
        check_writable(out)
        found = elastic((out / "elastic-runs").absolute(), recipe, set_ or [])
        found["ok"] = holds(found)
        path = out / "elastic.json"
        write_json(path, found)
        say(f"{'all of it holds' if found['ok'] else 'IT DOES NOT HOLD'}; {path.absolute()}")
    raise typer.Exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
