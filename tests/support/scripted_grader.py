"""A grading process whose answers say what it shall do, around the real loop and the real pipe.

    python scripted_grader.py SECONDS_TO_LOAD DEADLINE_S

Used by tests/actors/grading/test_pool.py: the script of an answer is its first word.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from actors.grading import worker
from pipeline.grading.grade import Gold, Verdict


def scripted(answer: str, gold: Gold) -> Verdict:
    """Act as the answer says; "correct" where the process survives it."""
    word, _, argument = answer.partition(" ")
    if word == "spin":
        _spin(float(argument))
    elif word == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif word == "die" or (word == "die-once" and _first(Path(argument))):
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "raise":
        raise ArithmeticError(argument)
    elif word == "exhaust":
        raise MemoryError
    elif word == "print":
        print(argument, flush=True)
    elif word in ("log", "log-and-spin"):
        with Path(argument).open("a") as log:
            log.write(f"{gold.answer}\n")
        _spin(100.0 if word == "log-and-spin" else 0.0)
    elif word == "deaf":
        3 ** (10**10)  # one call into C that never lets Python run again
    elif word == "reason":
        return Verdict("unparsed", argument)
    return Verdict("correct")


def _spin(seconds: float) -> None:
    """Use so much processor time."""
    limit = time.process_time() + seconds
    while time.process_time() < limit:
        pass


def _first(mark: Path) -> bool:
    """Whether no process has been here before."""
    first = not mark.exists()
    mark.touch()
    return first


if __name__ == "__main__":
    loading_s = float(sys.argv[1])
    worker.main(float(sys.argv[2]), judge=scripted, load=lambda: _spin(loading_s))
