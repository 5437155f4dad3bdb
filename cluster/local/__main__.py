"""Run a local cluster until Ctrl-C: `make local-cluster`, or `python -m cluster.local`.

A head, worker nodes that the real autoscaler starts and ends here, each with its own files
(`cluster.local.cluster`), and an S3 server for what they share, whose keys only the head has.
Printed is the line that submits a job.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cluster.local.cluster import LocalCluster, NodeType, short_folder
from cluster.s3 import LocalS3
from pipeline.errors import UserError

SUBMIT = """\
Submit a job to it, in another terminal, from this checkout:

  export {environment}
  ray job submit --working-dir . -- python -m jobs.run --recipe tiny \\
    --set store.url=s3://{bucket}/store --set run.out={out}

What it makes is in the store, which is reached from here with

  export {aws}
  mstar-ray status s3://{bucket}/store

Nodes come when the job asks for them (logs: {folder}/nodes). Ctrl-C ends the cluster and
its jobs."""


def main(
    nodes: Annotated[int, typer.Option(min=1, help="worker nodes at most")] = 3,
    cpus: Annotated[float, typer.Option(min=0.1, help="logical CPUs of each")] = 1.0,
    idle_s: Annotated[float, typer.Option(min=1, help="seconds until an unused one goes")] = 15.0,
    port: Annotated[int, typer.Option(help="where jobs are submitted; 0: a free port")] = 8265,
    folder: Annotated[Path, typer.Option(help="of the S3 server's objects")] = Path("out/cluster"),
) -> None:
    """A head and autoscaled worker nodes on this machine, until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            LocalS3(folder / "s3") as store,
            short_folder() as own,
            LocalCluster(
                own,
                {"worker": NodeType({"CPU": cpus}, nodes)},
                idle_s=idle_s,
                head_environment=store.keys_environment(),
                dashboard_port=port,
            ) as cluster,
        ):
            print(_how_to_submit(cluster, store, folder.absolute() / "head"), flush=True)
            cluster.wait()
    except KeyboardInterrupt:
        print("stopped")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _how_to_submit(cluster: LocalCluster, store: LocalS3, out: Path) -> str:
    def export(variables: Mapping[str, str]) -> str:
        return " ".join(f"{name}={value}" for name, value in variables.items())

    return SUBMIT.format(
        environment=export(cluster.environment()),
        aws=export(store.environment()),
        bucket=store.bucket,
        out=out,
        folder=cluster.folder,
    )


if __name__ == "__main__":
    typer.run(main)
