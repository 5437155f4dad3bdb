"""Jobs on a local cluster as a person submits them: `ray job` in a checkout that is not the
installed one, with the cluster's token and nothing else of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.local.cluster import ROOT, LocalCluster
from pipeline.errors import UserError

CHECKOUT = ("actors", "assets", "cluster", "jobs", "pipeline", "pyproject.toml")
"""What of a checkout a job needs."""

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

LOOK_S = 1.0


@dataclass(frozen=True)
class Ended:
    """How a submitted job ended, as Ray says it, and its log."""

    status: str
    message: str
    log: str

    @property
    def last_line(self) -> str:
        """The last line that the job said."""
        return self.log.strip().splitlines()[-1]


class Submission:
    """Submits jobs to a cluster from a checkout."""

    def __init__(self, cluster: LocalCluster, checkout: Path) -> None:
        self.cluster = cluster
        self.checkout = checkout

    def submit(
        self,
        name: str,
        recipe: str,
        changes: Sequence[str] = (),
        *,
        metadata: Mapping[str, str] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        """`ray job submit`; the job goes on by itself.

        name: its submission id. changes: of settings, `section.key=value`.

        Raises:
            UserError: Ray refuses it, with its words.
        """
        settings = [part for change in changes for part in ("--set", change)]
        options = ["--metadata-json", json.dumps(metadata)] if metadata else []
        options += ["--runtime-env-json", json.dumps(runtime_env)] if runtime_env else []
        self._ray(
            "submit", "--no-wait", "--submission-id", name, "--working-dir", ".", *options,
            "--", "python", "-m", "jobs.run", "--recipe", recipe, *settings,
        )  # fmt: skip

    def stop(self, name: str) -> None:
        """`ray job stop`; returns once it has stopped."""
        self._ray("stop", name)

    def _ray(self, *arguments: str) -> None:
        mine = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "job", *arguments],
            cwd=self.checkout,
            env=mine | self.cluster.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError(f"ray job {arguments[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def status(self, name: str) -> str:
        """PENDING, RUNNING, or how it ended."""
        return str(self.cluster.jobs()[name]["status"])

    def ended(self, name: str, limit_s: float) -> Ended:
        """Wait until a job has ended.

        Raises:
            UserError: it is still running after `limit_s`, with the end of its log.
        """
        deadline = time.monotonic() + limit_s
        while (status := self.status(name)) not in ENDED:
            if time.monotonic() > deadline:
                raise UserError(f"job {name} is {status} after {limit_s:.0f} s; its log ends:\n"
                                f"{self.log(name)[-4000:]}")  # fmt: skip
            time.sleep(LOOK_S)
        return Ended(status, str(self.cluster.jobs()[name]["message"]), self.log(name))

    def log(self, name: str) -> str:
        """What a job has said so far, by Ray and itself."""
        files = list(self.cluster.folder.glob(f"ray/session_2*/logs/job-driver-{name}.log"))
        return files[0].read_text(errors="replace") if files else ""


def copy_checkout(target: Path) -> Path:
    """A copy of this checkout, as far as jobs need it: no `.git`, no environment."""
    target.mkdir(parents=True)
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, target / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, target / name)
    return target
