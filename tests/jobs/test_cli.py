"""How jobs end: exit codes, words instead of tracebacks, never later than the make around them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from jobs.runtime.cli import MAKE, ending
from pipeline.errors import BadConfig, StoreRefused
from pipeline.storage.backend import StoreFull

ROOT = Path(__file__).resolve().parents[2]

JOB = """
import os, time
from jobs.runtime.cli import ending
with ending("interrupted; goes on"):
    print(os.getpid(), flush=True)
    time.sleep(600)
"""

# What make is to a job: its parent, which says so.
LIKE_MAKE = f"""
import os, subprocess, sys
os.environ["{MAKE}"] = str(os.getpid())
sys.exit(subprocess.call([sys.executable, "-c", {JOB!r}]))
"""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BadConfig("generate.samples = 0"), 2, "error: generate.samples = 0"),
        (StoreRefused("no such bucket"), 1, "stopped: no such bucket"),
        (
            StoreFull("out/x: full. Free some space there"),
            2,
            "error: out/x: full. Free some space there",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/x"),
            2,
            "error: a disk of this machine is full (out/x): [Errno 28] No space left on device: "
            "'out/x'. Free some space, then start the same command again: the run goes on "
            "(`mstar-ray gc STORE` lists what a store no longer needs)",
        ),
        (KeyboardInterrupt(), 130, "interrupted; goes on"),
    ],
)
def test_an_error_has_words_and_a_code(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, ending("interrupted; goes on"):
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err == f"{words}\n"


def test_what_nobody_can_mend_keeps_its_traceback() -> None:
    for error in (ZeroDivisionError(), OSError(errno.EIO, "Input/output error")):
        with pytest.raises(type(error)), ending():
            raise error


def start(program: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A process, and the job inside that said its number."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_can_be_interrupted(number: signal.Signals) -> None:
    process, _ = start(JOB)
    process.send_signal(number)
    assert process.wait(60) == 130


def test_a_job_ends_with_the_make_that_started_it() -> None:
    make, job = start(LIKE_MAKE)
    make.kill()
    make.wait()
    end = time.monotonic() + 60
    with suppress(psutil.NoSuchProcess):  # it ends between the two questions
        while job.is_running() and job.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
            time.sleep(0.1)
