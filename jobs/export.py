"""Models, selected responses and step labels of a run, as files that a person can open."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.stages.decoders import PolicyDecoders
from jobs.runtime.cli import command, did_you_mean, say
from jobs.runtime.export import export_policy
from jobs.runtime.export_rows import write_labels, write_rows
from jobs.runtime.hub import hub, push
from jobs.runtime.stored_outputs import fetch_outputs
from jobs.runtime.stores import find_run
from pipeline.errors import BadConfig
from pipeline.records import StepValues
from pipeline.reports.card import PRM, model_card, prm_card
from pipeline.reports.comparison import named_policies
from pipeline.reports.selected import phases_of, selected_rows
from pipeline.reports.sft import Form, label_row
from pipeline.run.stored import StoredRun
from pipeline.storage.artifacts import inspect_rows
from pipeline.storage.models import check_trusted
from pipeline.storage.tree_cache import TreeCache


def model(place: str, run: str | None, name: str, to: Path, push_to: str | None) -> None:
    """Write a policy or the process reward model of a run ("prm") as a complete folder with a card
    of its own, say its hash, and upload it where `push_to` names a repository of the Hub.

    Raises:
        BadConfig: there is no such run or model, `to` holds something, or nobody may upload.
    """
    stored = find_run(place, run)
    models = stored.state.policies | named_policies(stored.state)
    if name not in models:
        raise BadConfig(
            f"run {stored.name!r} has no policy {name!r}{did_you_mean(name, models)} It has "
            f"{', '.join(models)}"
        )
    if to.exists():
        raise BadConfig(f"{to} is there already: name a folder that is not (--to)")
    api = None if push_to is None else hub(push_to)
    chosen = models[name]
    entry = stored.entry_of(chosen)
    card = (
        prm_card(stored.state, stored.spec, entry)
        if name == PRM
        else model_card(name, stored.state, stored.spec, entry)
    )
    export_policy(stored.store, chosen, to, card, say)
    what = "process reward model" if name == PRM else f"policy {name}"
    print(f"{to}: {what} of run {stored.name}, sha256 {chosen.path.rpartition('/')[2]}")
    if api is not None and push_to is not None:
        print(f"uploaded: {push(api, to, push_to)}")


def selected(place: str, run: str | None, phase: str | None, to: Path, form: Form) -> None:
    """Write the responses that a run trained on in one of the forms of `pipeline.reports.sft`, and
    say how many.

    phase: "warmup" or "evolve/3"; None: all.

    Raises:
        BadConfig: there is no such run, nothing was selected in that phase, or `to` is there.
    """
    stored = find_run(place, run)
    phases = phases_of(stored)
    if not phases or (phase is not None and phase not in phases):
        there = ", ".join(phases) or "nothing yet"
        near = "" if phase is None else did_you_mean(phase, phases)
        raise BadConfig(f"run {stored.name!r} has selected nothing in {phase or 'any phase'}{near} "
                        f"It has selected in: {there}")  # fmt: skip
    rows = selected_rows(stored, phase)
    count = write_rows(stored.store, rows, form, to, stored.name)
    print(f"{to}: {count} responses selected in {phase or ', '.join(phases)}")


def labels(place: str, run: str | None, to: Path, *, trusted: bool = False) -> None:
    """Write the Monte-Carlo values of steps that a run's process reward model was trained on and
    judged by, in the raw form of VisualPRM400K, and say how many responses have them.

    trusted: let code of the run's policies be run, where their tokens cannot be read without.

    Raises:
        BadConfig: there is no such run, it has no labels, or `to` is there.
        BadModel: the policy's own code is needed, and may not be run.
    """
    stored = find_run(place, run)
    if stored.state.labels is None:
        raise BadConfig(
            f"run {stored.name!r} has no step labels: they are made after the warm-up of a run "
            "that builds a process reward model (select.reward=prm)"
        )
    check_trusted(stored.store, [stored.state.policies["warmup"]], trusted)
    with tempfile.TemporaryDirectory(prefix="mstar-ray-") as scratch:
        rows = _label_rows(stored, Path(scratch), trusted)
        count = write_labels(stored.store, rows, to)
    print(f"{to}: Monte-Carlo values of the steps of {count} responses")


def _label_rows(stored: StoredRun, scratch: Path, trusted: bool) -> Iterator[dict[str, Any]]:
    assert stored.state.labels is not None
    decoders = PolicyDecoders(stored.store, TreeCache(scratch), trusted=trusted)
    decode = decoders(stored.state.policies["warmup"])
    path = stored.state.labels["path"]
    for row in inspect_rows(stored.store, path, StepValues):
        yield label_row(row, stored.spec.by_hash[row.query], decode)


def outputs(place: str, run: str | None, to: Path) -> None:
    """Write what a run has put into its store for people into a folder, and say how many files.

    Raises:
        BadConfig: there is no such run, it has put nothing there, or `to` is there.
    """
    stored = find_run(place, run)
    if to.exists():
        raise BadConfig(f"{to} is there already: name a folder that is not (--to)")
    files = fetch_outputs(stored.store, stored.name, to)
    if not files:
        raise BadConfig(
            f"run {stored.name!r} has put no outputs into {stored.store.url}: they lie beside that "
            "store, or the run has not come so far"
        )
    print(f"{to}: {len(files)} files of run {stored.name}")


if __name__ == "__main__":
    command("export")
