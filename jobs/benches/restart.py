"""How long a killed run takes to be at work again: from the command to the next accepted shard."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from jobs.benches.record import Options, Result
from jobs.runtime.prepare import store_url
from pipeline.config.fields import to_dict
from pipeline.errors import UserError
from pipeline.run.ledger import Ledger
from pipeline.storage.store import open_store

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 900.0
END_S = 120.0


def restart(options: Options) -> Result:
    """Killed at its first accepted shard of a life, and started again by the same command."""
    rounds = 1 if options.small else options.rounds
    out = options.folder / "restart"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run = options.config.run.model_copy(update={"out": str(out), "name": "restart"})
    config = options.config.model_copy(update={"run": run})
    recipe = out / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(config)))
    url = store_url(config)
    lives = [_life(recipe, url, last=turn == rounds) for turn in range(rounds + 1)]
    return Result(
        name="restart",
        what="seconds from the command to the next accepted shard, after a SIGKILL",
        unit="s",
        values={"restart": lives[1:]},
        start_s={"the first life": lives[0]},
    )


def _life(recipe: Path, url: str, *, last: bool) -> float:
    """Start the run and end it at the next accepted shard; how long that took."""
    before = _accepted(url)
    begun = time.perf_counter()
    log = recipe.with_name("log")
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.run", "--config", str(recipe)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        while _accepted(url) == before:
            if process.poll() is not None or time.perf_counter() - begun > LIMIT_S:
                raise UserError(f"the run did not accept a shard:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        return time.perf_counter() - begun
    finally:
        process.send_signal(signal.SIGTERM if last else signal.SIGKILL)
        process.wait(END_S)


def _accepted(url: str) -> int:
    events = Ledger(open_store(url), "restart").replay()
    return sum(event["type"] == "shard_accepted" for event in events)
