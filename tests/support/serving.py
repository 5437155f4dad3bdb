"""`vllm serve` in a process of its own on loopback, as somebody runs it who was given a folder."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_S = 300
MODEL = "exported"
OPTIONS = ("--dtype", "float32", "--max-model-len", "512", "--enforce-eager")
# What `vllm serve` needs on a CPU: memory for its cache, threads that share the cores with others,
# no compiler for the one function that it would compile.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@contextmanager
def served(folder: Path, log: Path, options: Sequence[str] = ()) -> Iterator[httpx.Client]:
    """A server of a model folder, ready; a client of it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [
        Path(sys.executable).with_name("vllm"), "serve", folder, "--host", "127.0.0.1",
        "--port", port, "--served-model-name", MODEL, *OPTIONS, *options,
    ]  # fmt: skip
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [str(one) for one in command],
            stdout=sink,
            stderr=sink,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _until_ready(client, process, log)
            yield client
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < end, log.read_text()[-4000:]
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)


def asked(question: str, images: Sequence[bytes]) -> dict[str, Any]:
    """The user's message in OpenAI's form: the images first, as data, then the question."""
    shown = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(image).decode()}"},
        }
        for image in images
    ]
    return {"role": "user", "content": [*shown, {"type": "text", "text": question}]}


def answered(client: httpx.Client, path: str, request: dict[str, Any]) -> dict[str, Any]:
    """What the server answers to a request of its model."""
    done = client.post(path, json={"model": MODEL, **request})
    assert done.status_code == 200, done.text
    answer: dict[str, Any] = done.json()
    return answer
