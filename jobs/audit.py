"""Prove what a run did: `python -m jobs.audit out/tiny/store --run tiny`.

Without more, every hash and every link of the run is checked, offline: ledger, snapshots, shards,
policies, checkpoints, images, that nothing but the plan was sampled, scored, selected and trained
on, and that a process reward model learned what its completions say. Nothing is changed; a running
driver is not disturbed.

    --trace evolve/1:train-17/3     where one training sample comes from ([PURPOSE:]QUERY/K)
    --diff A B                      the first step at which two runs part, and in what they differ
    --other STORE                   run B's store, when it is not the same

Exit codes: 0 all is well (or: the runs are equal); 1 something is damaged or missing (or: they
differ), each named; 2 there is no such run or sample.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from actors.supervision.node_cache import job_folder
from jobs.runtime.cli import ending, say
from pipeline.audit.diff import first_difference, settings_changed
from pipeline.audit.garbage import runs_of
from pipeline.audit.run import Report, audit
from pipeline.audit.trace import lines, trace
from pipeline.errors import BadConfig, CorruptObject
from pipeline.prm.labels import Decode
from pipeline.refs import PolicyRef
from pipeline.run.ledger import Ledger
from pipeline.storage.backend import printable
from pipeline.storage.store import Store, open_store
from pipeline.storage.trees import check_tree, get_tree

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    store: Annotated[str, typer.Argument(help="a folder or s3://bucket/prefix")],
    run: Annotated[str | None, typer.Option(help="the run; needed when there are several")] = None,
    trace_: Annotated[str | None, typer.Option("--trace", help="[PURPOSE:]QUERY/K")] = None,
    diff: Annotated[tuple[str, str] | None, typer.Option(help="two runs")] = None,
    other: Annotated[str | None, typer.Option(help="the store of the second run")] = None,
) -> None:
    """Check a run, trace a sample of it, or compare two runs."""
    with ending():
        place = open_store(store, say=say)
        if diff is not None:
            second = place if other is None else open_store(other, say=say)
            same = _diff(place, diff[0], second, diff[1])
            raise typer.Exit(0 if same else 1)
        name = run or _only_run(place)
        if trace_ is not None:
            _trace(place, name, trace_)
            return
        report = whole_audit(place, name)
        _show(report)
        raise typer.Exit(0 if report.clean else 1)


def whole_audit(store: Store, run: str) -> Report:
    """An audit that can read the tokens of the run's policies.

    Raises:
        BadConfig, StoreError: as `pipeline.audit.run.audit`.
    """
    with job_folder(Path(tempfile.gettempdir())) as scratch:

        def decoder(policy: PolicyRef) -> Decode:
            from actors.model.processor import load_processor

            # What is damaged would be moved away by fetching it, and an audit changes nothing.
            if wrong := check_tree(store, policy.path):
                raise CorruptObject("; ".join(wrong))
            folder = scratch / policy.version
            get_tree(store, policy.path, folder)
            return load_processor(folder).decode

        return audit(store, run, decoder)


def _only_run(store: Store) -> str:
    runs = runs_of(store)
    if len(runs) != 1:
        there = ", ".join(runs) or "none"
        raise BadConfig(f"{store.url} holds these runs: {there}; name one with --run")
    return runs[0]


def _show(report: Report) -> None:
    state = "finished" if report.finished else "not finished"
    print(
        f"run {report.run}: {report.entries} ledger entries, {report.events} events, "
        f"{report.objects} objects read and hashed; {state}"
    )
    for note in report.notes:
        print(f"  note: {note}")
    for problem in report.problems:
        print(f"  {printable(str(problem))}")
    print("clean" if report.clean else f"{len(report.problems)} problems")


def _trace(store: Store, run: str, sample: str) -> None:
    uses = trace(store, run, sample)
    for number, origin in enumerate(uses):
        print(f"use {number + 1} of {len(uses)} as training data")
        print("\n".join(lines(origin, 1)))


def _diff(first: Store, a: str, second: Store, b: str) -> bool:
    """Say where the runs part; whether they do not."""
    events = [list(Ledger(store, run).replay()) for store, run in ((first, a), (second, b))]
    for store, run, found in ((first, a, events[0]), (second, b, events[1])):
        if not found:
            raise BadConfig(f"{store.url} holds no run {run!r}")
    changed = settings_changed(events[0][0], events[1][0])
    for change in changed:
        print(f"settings: {change}")
    difference = first_difference(*events)
    print(difference or f"{a} and {b} did the same")
    return difference is None and not changed


if __name__ == "__main__":
    app()
