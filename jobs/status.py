"""What a run is doing and has done, from its store alone: `mstar-ray status out/digits`.

Nothing is written and no lease is taken, so a driver at work is not disturbed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from jobs.runtime.cli import command
from jobs.runtime.stores import find_run
from pipeline.config.load import stored_config
from pipeline.phases.order import ready_steps
from pipeline.reports.status import history_lines, pool_lines, step_line
from pipeline.run.events.wire import from_wire, replay
from pipeline.run.lease import is_dead, last_tenure
from pipeline.run.ledger import Ledger
from pipeline.run.queries import spec_of
from pipeline.run.state import State
from pipeline.storage.store import Store

MINUTE_S, HOUR_S = 60.0, 3600.0


def status(place: str, run: str | None = None, say: Callable[[str], None] = print) -> None:
    """Say what a run is doing and has done.

    place: a store, or the folder of a run; run: which, where a store holds several.

    Raises:
        BadConfig: there is no such store or run. StoreError: its ledger cannot be read.
    """
    stored = find_run(place, run)
    for line in status_lines(stored.store, stored.name, shutil.get_terminal_size((100, 0)).columns):
        say(line)


def status_lines(store: Store, run: str, width: int, now_unix_s: float | None = None) -> list[str]:
    """What `status` says, line by line.

    now_unix_s: the time that ages are counted to; None: now.
    """
    now = time.time() if now_unix_s is None else now_unix_s
    ledger = Ledger(store, run)
    events = list(ledger.replay())
    state = replay(events)
    condition = _condition(store, run, state, now)
    lines = [f"run {run} in {store.url}: {condition}"]
    if events:
        age = _age(store, ledger.folder, now)
        lines.append(f"last event: {events[-1]['type']} ({events[-1]['stage']}), {age} ago")
    if state.config is not None:
        config = stored_config(state.config)
        lines.append(
            f"{len(state.iterations)} of {config.evolve.iterations} iterations are complete; "
            f"settings {state.config_hash}, seed {config.run.seed}"
        )
        when = "now" if condition.startswith("running") else "next"
        steps = ready_steps(state, spec_of(store, from_wire(events[0])))
        lines += [f"{when}: {step_line(step, state)}" for step in steps]
    return [*lines, *pool_lines(events), *history_lines(state, width)]


def _condition(store: Store, run: str, state: State, now: float) -> str:
    """Whether somebody works on it, in words."""
    found = last_tenure(store, run)
    if found is None:
        return "finished" if state.finished else "nobody has worked on it yet"
    lease, _ = found
    age = _age(store, f"runs/{run}/lease", now)
    dead = is_dead(lease.holder)
    if state.finished is not None and (lease.released or dead):
        return "finished"
    if lease.released:
        return f"stopped {age} ago by {lease.who}; the command that started it goes on"
    if dead:
        return f"stopped: {lease.who} is dead; the command that started it goes on"
    return (
        f"running: {lease.who} renewed its lease {age} ago (after {lease.ttl_s:.0f} s without, "
        "another driver may take the run over)"
    )


def _age(store: Store, folder: str, now: float) -> str:
    """How long ago the newest object in a folder was written, by this machine's clock."""
    seconds = max(0.0, now - max(entry.modified_unix_s for entry in store.entries(folder)))
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    return f"{seconds / HOUR_S:.0f} h"


def overview(folder: Path, say: Callable[[str], None] = print) -> None:
    """Say one line for each run whose folder lies in this one."""
    folders = [runs.parents[1] for runs in sorted(folder.glob("*/store/runs"))]
    if not folders:
        say(f"no run lies in {folder}/: name a store, or the folder of a run")
    for one in folders:
        stored = find_run(str(one))
        say(status_lines(stored.store, stored.name, width=100)[0])


if __name__ == "__main__":
    command("status")
