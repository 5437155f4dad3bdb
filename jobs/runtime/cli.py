"""How every job ends: an error in words, no traceback for what a person can mend, an exit code.

0    done
2    a person has to mend something: `UserError`, or a full disk, in words
130  interrupted (Ctrl-C, SIGTERM, or the `make` that started the job was killed)
1    anything else
"""

from __future__ import annotations

import difflib
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from actors.supervision.process_guard import end_with
from pipeline.errors import StoreError, UserError
from pipeline.storage.backend import StoreFull
from pipeline.storage.disk import disk_full

# Whoever kills `make run` means the job: the Makefile says here which process make is.
MAKE = "MSTAR_MAKE"


@contextmanager
def ending(interrupted: str = "interrupted") -> Iterator[None]:
    """Around all that a job does. interrupted: what is said when it is.

    Raises:
        SystemExit: with the code above.
    """
    interruptible()
    # Whoever reads a job's lines has no use for what model libraries think of config files.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if MAKE in os.environ:
        end_with(int(os.environ[MAKE]))
    try:
        yield
    except (UserError, StoreFull) as error:
        say(f"error: {error}")
        raise SystemExit(2) from error
    except StoreError as error:
        say(f"stopped: {error}")
        raise SystemExit(1) from error
    except Exception as error:
        full = disk_full(error)
        if full is None:
            raise
        say(f"error: {full}")
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        say(interrupted)
        raise SystemExit(130) from None


def command(name: str) -> None:
    """`python -m jobs.NAME`, which is `mstar-ray NAME`."""
    # By its name: the command line imports the very module that calls here.
    import_module("jobs.main").main(name)


def interruptible() -> None:
    """SIGTERM is Ctrl-C. To be said again after Ray has started: it puts a handler of its own."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def say(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


def write_json(path: Path, value: Any) -> None:
    """What a command found, as a file that a person can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", "utf-8")


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a sentence that says that a word is unknown: the nearest of those there are."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f": did you mean {near[0]!r}?" if near else "."
