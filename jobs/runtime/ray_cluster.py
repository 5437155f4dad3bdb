"""Ray as a configuration describes it: a private one on this machine, or a cluster that is joined.

A private Ray listens on loopback only, asks for a token, keeps all its files (and the temporary
ones of whatever runs in it) in a folder of this job, and leaves no process behind, however far its
start came. A cluster that does not answer is refused within seconds.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from actors.supervision.node_cache import job_folder
from actors.supervision.process_guard import guard
from actors.supervision.waiting import FIRST_S, WaitingNote
from jobs.runtime.capacity import check_joined
from jobs.runtime.cluster_job import is_submitted
from jobs.runtime.code_identity import PACKAGES, ROOT, code_hash, code_place
from jobs.runtime.ray_token import make_token
from jobs.runtime.worker_environment import chain_names, environment_hook
from pipeline.config.checks import check_machine
from pipeline.config.schema import Config
from pipeline.errors import BadConfig, UserError

RAY_STORE_BYTES = 256 << 20
START_ATTEMPTS = 3
# What Ray says of its raylet and of its control store when they are not up after 30 s.
TOO_SLOW = ("timed out during startup", "Timed out waiting for file")

GONE_S = 8.0
"""For processes of a start that failed, once they were killed; no setting, they go at once."""

# Where this is false Ray takes 127.0.0.1 for the address of its node, and everything listens there
# only. Elsewhere it replaces that address by the machine's, even when told to use it.
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"

# Whether a raylet starts as many workers as it has CPUs for its first driver. Every actor here has
# an environment of its own, and none of them would be used.
PRESTART = "RAY_prestart_worker_first_driver"

# How a gRPC connection begins, and with which kind of frame its server answers (HTTP/2, 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"

SETTINGS = 4

A_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"


@contextmanager
def start_ray(config: Config, say: Callable[[str], None] = logging.warning) -> Iterator[None]:
    """A private Ray on this machine, or the cluster that the configuration names.

    On a private one roles take turns, so its logical CPUs are as many as all roles that there can
    be ask for together, whatever the machine has.

    Raises:
        BadConfig: the cluster cannot be joined, or can never hold enough for the run.
        UserError: a private Ray does not start.
    """
    import ray

    guard()
    address = config.cluster.address
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ[PRESTART] = "0"
    # Workers find this code however the job was started.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part
    )
    with ExitStack() as stack:
        if address is None:
            make_token(say)
            folder = stack.enter_context(job_folder(Path(tempfile.gettempdir())))
            options = _private(config, folder, stack)
        else:
            check_address(address, config.cluster.join_s)
            options = {"address": address, "runtime_env": _worker_environment(say)}
        stack.callback(ray.shutdown)
        init_ray({"logging_level": logging.ERROR, "log_to_driver": False, **options})
        if address is None:
            there = ray.cluster_resources()
            check_machine(config, there.get("CPU", 0.0), there.get("GPU", 0.0))
        else:
            check_joined(config, say)
            check_workers(say)
        yield


def _private(config: Config, folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Options of a Ray of this job's own, all of whose files are in `folder`."""
    cluster, generate, learn = config.cluster, config.generate, config.learn
    engines = generate.engines + config.prm.scorers
    wanted = engines * cluster.cpus_per_engine + learn.ranks * cluster.cpus_per_rank
    before = os.environ.get("TMPDIR")
    # Read by what Ray starts; this process has long decided where its own temporary files are.
    os.environ["TMPDIR"] = str(folder)
    stack.callback(_set, "TMPDIR", before)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the ranks' own connections
    return {
        "num_cpus": int(max(os.cpu_count() or 1, wanted + 0.999)),
        "object_store_memory": RAY_STORE_BYTES,
        "include_dashboard": False,
        "_temp_dir": str(folder),
    }


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def init_ray(options: dict[str, Any]) -> Any:
    """`ray.init`, again where a busy machine was slower than the 30 s that Ray allows its parts.

    Without an address it is a Ray of this process's own, on loopback, whatever else runs on the
    machine: Ray itself would join the one it last saw there. When this raises, nothing that Ray
    started is left.

    Returns:
        What `ray.init` returns.

    Raises:
        UserError: it is too slow every time. BadConfig: the cluster at the address refuses.
    """
    import ray

    options = {"address": "local", **options}
    _listen_on_loopback(_is_loopback(options["address"]))
    attempt = 0
    while True:
        attempt += 1
        before = _started()
        try:
            return ray.init(**options)
        except BaseException as error:
            with suppress(Exception):  # Ray stumbles over what it has not started yet
                ray.shutdown()
            _end(_started() - before)
            if options["address"] != "local" and isinstance(error, Exception):
                raise BadConfig(
                    f"cluster.address = {options['address']}: Ray cannot join it: "
                    f"{str(error).strip().splitlines()[0]}"
                ) from error
            if not any(words in str(error) for words in TOO_SLOW):
                raise
            if attempt == START_ATTEMPTS:
                raise UserError(
                    f"Ray did not start within 30 s, {START_ATTEMPTS} times: the machine is too "
                    "busy. Start the job again when it is less so"
                ) from error


def _worker_environment(say: Callable[[str], None]) -> dict[str, Any]:
    """The runtime environment of a cluster's workers: this code, unless Ray has given it to the
    whole job, and what reaches the store (`jobs.runtime.worker_environment`)."""
    if names := chain_names():
        say(f"workers are given {', '.join(names)} of this process, where a node sets none")
    code = {} if is_submitted() else {"py_modules": [str(ROOT / name) for name in PACKAGES]}
    return {"worker_process_setup_hook": environment_hook(), **code}


def check_workers(say: Callable[[str], None]) -> None:
    """Start one worker of the job on this node, and see that it runs this very code; a wait for it
    is said.

    Raises:
        BadConfig: the job's runtime environment cannot be built, or other code is found first.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    first = ray.remote(code_place).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    asked, note = first.remote(), WaitingNote()
    while not ray.wait([asked], timeout=FIRST_S)[0]:
        if note.passed(FIRST_S):
            say(
                f"a first worker of the job is waited for, for {note.waited_s:.0f} s now: Ray "
                "builds the job's runtime environment"
            )
    try:
        place, files = ray.get(asked)
    except RayError as error:
        raise BadConfig(
            f"no worker of this job can be started on its own node: {str(error).strip()}"
        ) from error
    if files != code_hash():
        raise BadConfig(
            f"workers run the code in {place}, not that of this process ({ROOT}): an installed "
            "mstar-ray is found first. Uninstall it on the cluster's nodes, or start this job with "
            "the same version"
        )


def _is_loopback(address: str) -> bool:
    """Whether a Ray at this address is one of this machine that listens on loopback only."""
    if address == "auto":
        return os.environ.get("RAY_ADDRESS", "").startswith("127.")
    return address == "local" or address.removeprefix("ray://").startswith("127.")


def _listen_on_loopback(only: bool) -> None:
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = not only  # of this process, which has read it already
    _set(LOOPBACK, "0" if only else None)


def _started() -> set[psutil.Process]:
    """Everything that this process has started and that still runs."""
    return set(psutil.Process().children(recursive=True))


def _end(family: set[psutil.Process]) -> None:
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=GONE_S)


def check_address(address: str, answer_s: float) -> None:
    """Refuse a cluster that does not answer; Ray itself would ask for minutes.

    answer_s: for its control store to accept a connection, and again to answer.

    Raises:
        BadConfig: naming the address as it was given.
    """
    if address == "auto":  # whatever runs on this machine: only Ray knows its address
        return
    key = f"cluster.address = {address}"
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        host, port = place.hostname, place.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise BadConfig(f"{key}: write HOST:PORT, as `ray start --head` prints it, or auto")
    try:
        with socket.create_connection((host, port), answer_s) as connection:
            connection.sendall(PREFACE)
            frame = connection.recv(9)
    except OSError as error:
        raise BadConfig(
            f"{key}: nobody answers there ({error}). Is Ray running on it (`ray start --head`), "
            "and may this machine reach that port?"
        ) from error
    other = frame[3:4] != bytes([SETTINGS])
    if other or not (place.scheme == "ray" or _knows_ray(f"{host}:{port}", answer_s)):
        raise BadConfig(f"{key}: what answers there is not Ray: is it another service's port?")


def _knows_ray(place: str, answer_s: float) -> bool:
    """Whether a method of Ray's control store is known there. What it says to it is Ray's matter:
    it may ask for a token."""
    import grpc

    with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(A_METHOD)(b"", timeout=answer_s)
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True
