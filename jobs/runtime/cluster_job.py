"""A run on a Ray cluster that was there before it: where the cluster is, and what must not rest on
the disk of the node that drives.

A driver of a cluster runs on whichever node it was started on, or submitted to. Nothing that the
run needs again may lie there: engines, scorers and ranks are elsewhere, a resubmitted job has
another working directory, and the node may be gone. So the store is object storage, and what a
person reads is put there too (`jobs.runtime.stored_outputs`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.load import changed_config
from pipeline.config.schema import Config
from pipeline.errors import BadConfig

# Ray gives this to the command of a submitted job: its runtime environment and its metadata.
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def is_submitted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the command of `ray job submit`."""
    return SUBMITTED in environment


def job_metadata(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What was given to `ray job submit --metadata-json`; empty elsewhere."""
    return dict(json.loads(environment.get(SUBMITTED, "{}")).get("metadata") or {})


def on_its_cluster(config: Config, environment: Mapping[str, str] = os.environ) -> Config:
    """The same configuration; of a submitted job that names no cluster, on the one that it was
    submitted to (`auto`: Ray says where that is)."""
    if config.cluster.address is not None or not is_submitted(environment):
        return config
    return changed_config(config, ["cluster.address=auto"])


def check_shared(config: Config) -> None:
    """Refuse a run on a cluster whose store or outputs would lie on one node's disk.

    Raises:
        BadConfig: naming each key, and what to give instead.
    """
    if config.cluster.address is None:
        return
    problems = [*_store_problem(config.store.url), *_out_problem(config.run.out)]
    if problems:
        raise BadConfig("\n".join(problems))


def _store_problem(url: str | None) -> list[str]:
    give = "give object storage that every node reaches: --set store.url=s3://bucket/prefix"
    if url is None:
        return [
            "store.url is not set: the run's objects would lie on the disk of the node that "
            f"drives, and engines and ranks are on others; {give}"
        ]
    if not url.startswith("s3://"):
        return [f"store.url = {url}: one node's disk, and engines and ranks are on others; {give}"]
    return []


def _out_problem(out: str) -> list[str]:
    if Path(out).is_absolute():
        return []
    where = "Ray's copy of what was submitted, which Ray removes" if is_submitted() else "this node"
    return [
        f"run.out = {out}: a relative folder lies in {Path.cwd()} ({where}); give an absolute one "
        "for this node's own files: --set run.out=/var/tmp/mstar-out (what a person reads is put "
        "into the store, too)"
    ]
