"""A Ray cluster on this machine with the real autoscaler: a head here, worker nodes as they are
asked for, each with its own `/tmp`, its own working folder and none of this checkout.

    with LocalCluster(folder, {"worker": NodeType({"CPU": 1}, most=3)}) as cluster:
        subprocess.run(["ray", "job", "submit", ...], env=os.environ | cluster.environment())

What always holds: everything listens on loopback and asks for a token, which is made for this
cluster and readable by this user only; the cluster ends with this process, however that ends: the
head is guarded, Ray ends its processes and jobs with it, and a node ends with the autoscaler that
started it. What it wrote is in `folder`.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from cluster.guarded import guarded
from cluster.local.mounts import check_namespaces
from cluster.local.provider import HEAD, HEAD_TYPE
from cluster.s3 import free_port
from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

OBJECT_STORE_BYTES = 256 << 20
START_S, STOP_S, ANSWER_S = 120.0, 30.0, 30.0

# A process of the cluster, and whatever it starts, is known by this variable.
CLUSTER = "MSTAR_LOCAL_CLUSTER"

# Of another job, or of the make that started this: nothing that a cluster's jobs go by. A node's
# temporary files are in its own `/tmp`.
OTHERS = ("MSTAR_MAKE", "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "TMPDIR")

SOCKET_BYTES = 107
"""How long the path of a socket may be on Linux."""

LONGEST_SOCKET = "ray/session_2026-11-27_19-27-14_466396_4194304/sockets/plasma_store"
"""Of those that Ray makes below a cluster's folder."""

# How other kinds of cluster set their nodes up; the autoscaler reads all of them.
UNUSED_COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files",
)  # fmt: skip


@dataclass(frozen=True)
class NodeType:
    """A kind of worker node: its logical resources (`CPU` among them), and how many at most."""

    resources: Mapping[str, float]
    most: int = 3


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for a cluster's files, removed at the end; in `/tmp` whatever TMPDIR says, because
    Ray's sockets are in it and their paths must be short."""
    with tempfile.TemporaryDirectory(prefix="mstar-", dir="/tmp") as folder:
        yield Path(folder)


class LocalCluster:
    """One cluster. folder: for all that it writes (`short_folder`).

    node_types: by name. idle_s: after which an unused node goes. environment: of its nodes' and
    jobs' processes, besides this one's; head_environment: only of the head's and of jobs' drivers,
    which run there. hidden: folders that worker nodes do not see, besides `/tmp` and this
    checkout. head_cpus: logical; with 0 nothing that asks for a CPU runs there.
    """

    def __init__(
        self,
        folder: Path,
        node_types: Mapping[str, NodeType],
        *,
        idle_s: float = 10.0,
        environment: Mapping[str, str] | None = None,
        head_environment: Mapping[str, str] | None = None,
        hidden: Sequence[Path] = (),
        head_cpus: float = 0.0,
        dashboard_port: int = 0,
    ) -> None:
        self.folder = folder.absolute()
        self.port = free_port()
        self.dashboard_port = dashboard_port or free_port()
        self._node_types = dict(node_types)
        self._idle_s = idle_s
        self._environment = dict(environment or {})
        self._head_only = dict(head_environment or {})
        self._hidden = [Path("/tmp"), ROOT, *hidden]
        self._head_cpus = head_cpus
        self._head: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Of its control store: what `cluster.address` takes."""
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted to."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def log(self) -> Path:
        """What the head said."""
        return self.folder / "head.log"

    @property
    def nodes(self) -> dict[str, int]:
        """The worker nodes that live, by name, and the process that each of them is."""
        files = sorted((self.folder / "nodes").glob("*/pid"))
        found = {}
        for file in files:
            with suppress(OSError, ValueError):
                pid = int(file.read_text())
                if psutil.pid_exists(pid):
                    found[file.parent.name] = pid
        return found

    def environment(self) -> dict[str, str]:
        """What a process needs that submits jobs to this cluster."""
        return {
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
        }

    def start(self) -> Self:
        """Start the head; returns once jobs can be submitted.

        Raises:
            UserError: the folder's path is too long, namespaces are not permitted here, or the head
                did not start.
        """
        over = len(os.fsencode(self.folder / LONGEST_SOCKET)) - SOCKET_BYTES
        if over > 0:
            raise UserError(
                f"the cluster's folder {self.folder} has a path that is {over} bytes too long: "
                "Ray's sockets are in it; give a folder nearer to the root"
            )
        check_namespaces()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        config = self.folder / "autoscaler.json"  # JSON is YAML
        config.write_text(json.dumps(self._autoscaling(), indent=1))
        with self.log.open("wb") as log:
            self._head = subprocess.Popen(
                guarded(*self._head_command(config)),
                cwd=self.folder,
                env=self._head_environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._head.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-2000:]
                self.stop()
                raise UserError(f"the cluster's head did not start: {said.strip()}")
            time.sleep(0.2)
        return self

    def _head_command(self, config: Path) -> list[str]:
        return [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
            f"--port={self.port}", "--node-ip-address=127.0.0.1",
            "--include-dashboard=true", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}", "--dashboard-agent-listen-port=0",
            f"--ray-client-server-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0",
            f"--num-cpus={self._head_cpus:g}", "--num-gpus=0",
            f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={self.folder / 'ray'}",
            f"--autoscaling-config={config}", "--disable-usage-stats",
        ]  # fmt: skip

    def _head_environment(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if name not in OTHERS}
        return mine | {
            **self._environment,
            **self._head_only,
            **self.environment(),
            CLUSTER: str(self.folder),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback: `jobs.runtime.ray_cluster`
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",  # of no use: `jobs.runtime.ray_cluster`
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nobody else serves from this cluster
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD,
            "RAY_NODE_TYPE_NAME": HEAD_TYPE,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            # A job's `python` is the head's.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": str(ROOT),  # where the autoscaler finds its node provider
        }

    def _autoscaling(self) -> dict[str, Any]:
        kept = [sys.prefix, sys.base_prefix, self.folder / "token"]
        kinds = {
            name: {"resources": dict(kind.resources), "min_workers": 0, "max_workers": kind.most}
            for name, kind in self._node_types.items()
        }
        kinds[HEAD_TYPE] = {"resources": {"CPU": self._head_cpus}, "max_workers": 0}
        return {
            "cluster_name": "mstar-local",
            "max_workers": sum(kind.most for kind in self._node_types.values()),
            "upscaling_speed": 100,
            "idle_timeout_minutes": self._idle_s / 60,
            "provider": {
                "type": "external",
                "module": "cluster.local.provider.LocalNodeProvider",
                "address": self.address,
                "folder": str(self.folder),
                "hidden": [str(path) for path in self._hidden],
                "kept": [str(path) for path in kept],
                "unset": list(self._head_only),
            },
            "auth": {},
            "file_mounts": {},
            **{name: [] for name in UNUSED_COMMANDS},
            "head_node_type": HEAD_TYPE,
            "available_node_types": {
                name: {"node_config": {}, **kind} for name, kind in kinds.items()
            },
        }

    def _answers(self) -> bool:
        """Whether jobs can be submitted."""
        try:
            self.jobs()
        except OSError:
            return False
        return True

    def jobs(self) -> dict[str, dict[str, Any]]:
        """What the cluster says of its submitted jobs to whoever has the token, by submission id.

        Raises:
            OSError: it does not answer.
        """
        token = (self.folder / "token").read_text()
        request = urllib.request.Request(
            f"{self.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return {job["submission_id"]: job for job in found if job["submission_id"]}

    def wait(self) -> None:
        """Until the head ends by itself.

        Raises:
            UserError: it did, which nobody asked for.
        """
        assert self._head is not None
        status = self._head.wait()
        said = self.log.read_text(errors="replace")[-2000:]
        raise UserError(f"the cluster's head ended with {status}: {said.strip()}")

    def kill_node(self, name: str) -> None:
        """SIGKILL for every process of a worker node, at once."""
        with suppress(ProcessLookupError):
            os.kill(self.nodes[name], signal.SIGKILL)  # the namespace's first process dies with it

    def stop(self) -> None:
        """End the cluster and whatever runs in it."""
        head, self._head = self._head, None
        if head is not None:
            head.terminate()
            with suppress(subprocess.TimeoutExpired):
                head.wait(STOP_S)
        deadline = time.monotonic() + STOP_S
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1.0)
        if head is not None:
            head.wait()

    def processes(self) -> list[psutil.Process]:
        """Every process of the cluster that runs, jobs included."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(CLUSTER) == str(self.folder)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
