"""The two kinds of S3 server, on loopback, for the tests: with and without create-only writes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.s3 import LocalS3
from pipeline.storage.store import Store, open_store

BUCKET = "mstar-tests"
_NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
)
# S3 looks for the object and stores it in one step. moto does so in two, and the request of another
# of its threads that came in between would be told that it created the object as well.
_MOTO = """
import sys, threading
from moto.s3.responses import S3Response
from moto.server import main

put, one_at_a_time = S3Response.put_object, threading.Lock()

def put_object(self):
    with one_at_a_time:
        return put(self)

S3Response.put_object = put_object
main(sys.argv[1:])
"""


@contextmanager
def aws_environment(settings: dict[str, str]) -> Iterator[None]:
    """Only `settings` as the AWS environment of this process, whatever it was before."""
    before = {name: os.environ.pop(name, None) for name in _NAMES}
    # nothing of the machine the tests run on: no shared files, no instance role
    alone = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    os.environ.update(alone | {"AWS_EC2_METADATA_DISABLED": "true"} | settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def rclone_server(folder: Path) -> Iterator[LocalS3]:
    """rclone: authenticates, ignores If-None-Match."""
    with LocalS3(folder, bucket=BUCKET) as server, aws_environment(server.environment()):
        yield server


@contextmanager
def moto_server() -> Iterator[dict[str, str]]:
    """moto: honours If-None-Match, takes any keys. Yields the environment that reaches it."""
    # Apart: moto brings Flask, whose request proxies, once in sys.modules, raise when
    # vLLM looks through the modules of a process that also starts an engine.
    port = _free_port()
    command = [sys.executable, "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:  # type: ignore[call-overload]
        try:
            _wait_for(port, process)
            settings = {
                "AWS_ACCESS_KEY_ID": "tests",
                "AWS_SECRET_ACCESS_KEY": "tests",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_REGION": "us-east-1",
            }
            with aws_environment(settings):
                make_bucket()
                yield settings
        finally:
            process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], patience_s: float = 120.0) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise RuntimeError(f"the moto server ended with {process.returncode}")
        time.sleep(0.1)
    raise RuntimeError(f"the moto server did not answer within {patience_s} s")


def make_bucket() -> None:
    """Make the tests' bucket on the server that the environment names."""
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).call_s3("create_bucket", Bucket=BUCKET)


def bucket_store(prefix: str, patience_s: float = 30.0) -> Store:
    """A store in the tests' bucket."""
    return open_store(f"s3://{BUCKET}/{prefix}", patience_s)
