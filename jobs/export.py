"""Policies and selected responses of a run, as files that a person can open: `mstar-ray export`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from jobs.runtime.cli import command, did_you_mean, say
from jobs.runtime.export import export_policy
from jobs.runtime.stored_outputs import fetch_outputs
from jobs.runtime.stores import find_run
from pipeline.errors import BadConfig
from pipeline.reports.card import model_card
from pipeline.reports.comparison import named_policies
from pipeline.reports.selected import phases_of, selected_rows
from pipeline.run.events.wire import from_wire
from pipeline.run.ledger import Ledger
from pipeline.run.queries import spec_of
from pipeline.run.state import State


def policy(place: str, run: str | None, name: str, to: Path) -> None:
    """Write a policy of a run as a complete folder with a card of its own, and say its hash.

    Raises:
        BadConfig: there is no such run or policy, or `to` holds something.
    """
    store, run = find_run(place, run)
    events = [from_wire(wire) for wire in Ledger(store, run).replay()]
    state, spec = State(), spec_of(store, events[0])
    for event in events:
        state.apply(event)
    policies = state.policies | named_policies(state)
    if name not in policies:
        raise BadConfig(
            f"run {run!r} has no policy {name!r}{did_you_mean(name, policies)} It has "
            f"{', '.join(policies)}"
        )
    if to.exists():
        raise BadConfig(f"{to} is there already: name a folder that is not (--to)")
    chosen = policies[name]
    export_policy(store, chosen, to, model_card(name, state, spec), say)
    print(f"{to}: policy {name} of run {run}, sha256 {chosen.path.rpartition('/')[2]}")


def selected(place: str, run: str | None, phase: str | None, to: Path) -> None:
    """Write the responses that a run trained on, one JSON object a line, and say how many.

    phase: "warmup" or "evolve/3"; None: all.

    Raises:
        BadConfig: there is no such run, or nothing was selected in that phase.
    """
    store, run = find_run(place, run)
    events = [from_wire(wire) for wire in Ledger(store, run).replay()]
    phases = phases_of(events)
    if not phases or (phase is not None and phase not in phases):
        there = ", ".join(phases) or "nothing yet"
        near = "" if phase is None else did_you_mean(phase, phases)
        raise BadConfig(f"run {run!r} has selected nothing in {phase or 'any phase'}{near} "
                        f"It has selected in: {there}")  # fmt: skip
    to.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with tempfile.NamedTemporaryFile("w", dir=to.parent, encoding="utf-8", delete=False) as file:
        for row in selected_rows(store, spec_of(store, events[0]), events, phase):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            rows += 1
    Path(file.name).chmod(0o644)
    Path(file.name).replace(to)
    print(f"{to}: {rows} responses selected in {phase or ', '.join(phases)}")


def outputs(place: str, run: str | None, to: Path) -> None:
    """Write what a run has put into its store for people into a folder, and say how many files.

    Raises:
        BadConfig: there is no such run, it has put nothing there, or `to` is there.
    """
    store, run = find_run(place, run)
    if to.exists():
        raise BadConfig(f"{to} is there already: name a folder that is not (--to)")
    files = fetch_outputs(store, run, to)
    if not files:
        raise BadConfig(
            f"run {run!r} has put no outputs into {store.url}: they lie beside that store, or the "
            "run has not come so far"
        )
    print(f"{to}: {len(files)} files of run {run}")


if __name__ == "__main__":
    command("export")
