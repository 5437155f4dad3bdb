"""Runs of an ablation one after the other, in one process that keeps Ray, engines and ranks.

    a line of JSON, [recipe, log] ──stdin──► this process ──stdout──► a line, the run's exit code

What a run says goes into its log. A run that fails leaves nothing for the next one, which starts
Ray anew; an interrupt ends the process. It ends when its standard input does, and with the process
that started it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

from actors.supervision.process_guard import end_with
from jobs.run import evolve
from jobs.runtime.cli import MAKE, ending, interruptible
from jobs.runtime.code_identity import code_hash
from jobs.runtime.options import GOES_ON, settings
from jobs.runtime.roles import Kept
from jobs.runtime.world import REAL, Parts, running
from pipeline.errors import UserError


def serve(asked: TextIO, answers: TextIO) -> None:
    """Do the runs that are asked for, in their order."""
    begun = code_hash()
    with Kept() as kept:
        parts = replace(REAL, workers=partial(running, roles=kept))
        for line in asked:
            recipe, log = json.loads(line)
            code = run(recipe, Path(log), parts, begun)
            print(code, file=answers, flush=True)
            if code == 130:
                return


def run(recipe: str, log: Path, parts: Parts, begun: str) -> int:
    """Do one run, whose lines go into `log`; its exit code. begun: hash of the code that runs."""
    lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(lines, 1)
    os.dup2(lines, 2)
    os.close(lines)
    try:
        with ending(GOES_ON):
            if code_hash() != begun:
                raise UserError(
                    "the code was changed since this command began, and a run records the code "
                    "that lies there: give the command again"
                )
            evolve(settings(recipe, None, None, None), parts=parts)
    except SystemExit as error:
        return int(error.code or 0)
    except Exception:  # noqa: BLE001  the run is over, and its log says where
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    interruptible()
    if MAKE in os.environ:
        end_with(int(os.environ.pop(MAKE)))
    try:
        serve(sys.stdin, os.fdopen(os.dup(1), "w"))
    except KeyboardInterrupt:  # between two runs
        sys.exit(130)
