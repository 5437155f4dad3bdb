"""Run M-STaR's continuous self-evolving loop: `python -m jobs.run --config digits`.

The same command starts a run, goes on with one that was interrupted, and says so when it is done.
`--set section.key=value` changes one setting, as often as wanted. Outputs are in <out>/<run>/:
summary.json, tensorboard/, and the store unless it is elsewhere.

This module only wires: settings to pools, pools to the driver. It exits with 0 when the run is
finished, 2 when the person has to mend something, 130 when it was interrupted, 1 otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.generation.engine_settings import engine_settings
from actors.supervision.driver_lock import DriverLock
from jobs.runtime.bad_rows import bad_rows_to
from jobs.runtime.cards import Cards
from jobs.runtime.check_models import check_models
from jobs.runtime.check_queries import check_queries
from jobs.runtime.cli import ending
from jobs.runtime.console import PlainConsole, RichBars, make_console, warning
from jobs.runtime.export import export_policy
from jobs.runtime.prepare import images_of, load_data, out_folder, upload_images
from jobs.runtime.tensorboard import Board
from jobs.runtime.watchers import Watchers
from jobs.runtime.world import check_here, run_store, running
from pipeline.config.load import config_from_dict, load_config
from pipeline.config.resume import check_resume
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.driver.driver import Driver
from pipeline.driver.evaluate import lost_evaluations
from pipeline.grading.grade import GRADER_VERSION
from pipeline.reports.card import chain_of, model_card
from pipeline.reports.comparison import named_policies
from pipeline.reports.summary import summary
from pipeline.reports.tables import comparison_rows, difference_lines, text_table
from pipeline.reports.warnings import data_warnings
from pipeline.run.events.wire import replay
from pipeline.run.lease import Lease
from pipeline.run.ledger import Ledger
from pipeline.run.same_run import changes_since, check_same_data, check_same_means
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.storage.store import Store

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    config: Annotated[str, typer.Option(help="recipe name or YAML file")] = "digits",
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    take_over: Annotated[bool, typer.Option(help="fence a driver that is still alive")] = False,
    bad_rows: Annotated[
        Path | None, typer.Option(help="a file for every bad row of the data, as JSONL")
    ] = None,
) -> None:
    """Run the self-evolving loop, or go on with it."""
    with ending("interrupted; the same command goes on from here"), bad_rows_to(bad_rows):
        evolve(load_config(config, set_ or []), take_over=take_over)


def evolve(config: Config, *, take_over: bool = False) -> dict[str, Any]:
    """The run that a configuration describes, to its end; what `summary.json` holds."""
    check_here(config)
    console = make_console(config.run.console)
    with ExitStack() as stack:
        stack.callback(console.close)
        store = run_store(config, console.say)
        state = state_so_far(config, store)
        dataset = load_data(config, console.say)
        program = RunSpec.of(config, dataset, engine_settings(config).identity(), GRADER_VERSION)
        check_same_data(store, program, state)
        done = state.finished
        if done is not None and not lost_evaluations(state, program, store, done):
            for change in changes_since(program, state):
                console.say(f"changed since the run was started: {change}")
            console.say(f"run {config.run.name} is finished; nothing is left to do")
        else:
            check_same_means(program, state)
            for line in data_warnings(program):
                console.say(warning(line))
            check_models(config)
            check_queries(config, program.by_hash.values(), dataset, console.say)
            state = _drive(program, store, dataset, console, take_over=take_over)
        found = summary(state, program, store)
        path = out_folder(config) / "summary.json"
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
        show(found, config, console)
        if state.finished is not None:
            _hand_over(state, program, store, console.say)
        return found


def _hand_over(state: State, program: RunSpec, store: Store, say: Callable[[str], None]) -> None:
    """The final policy as a folder that a person can open, and its hash: the last line of a run."""
    policy = named_policies(state)["final"]
    folder = out_folder(program.config) / "final"
    export_policy(store, policy, folder, model_card("final", state, program), say)
    sha256 = policy.path.rsplit("/", 1)[-1]
    say(f"final policy ({chain_of('final', state)}): {folder}, sha256 {sha256}")


def drive_to(config: Config, until: Callable[[State], bool], *, take_over: bool = False) -> State:
    """The run that a configuration describes, up to a state."""
    check_here(config)
    console = make_console(config.run.console)
    with ExitStack() as stack:
        stack.callback(console.close)
        store = run_store(config, console.say)
        state = state_so_far(config, store)
        if state.finished is not None or until(state):
            return state
        dataset = load_data(config, console.say)
        program = RunSpec.of(config, dataset, engine_settings(config).identity(), GRADER_VERSION)
        check_same_data(store, program, state)
        check_same_means(program, state)
        check_models(config)
        check_queries(config, program.by_hash.values(), dataset, console.say)
        return _drive(program, store, dataset, console, take_over=take_over, until=until)


def state_so_far(config: Config, store: Store) -> State:
    """What the ledger says of this run, read without a lease and without starting anything.

    Raises:
        BadConfig: the run was started under settings of another meaning.
    """
    snapshot, events = Ledger(store, config.run.name).resume()
    state = replay(events, State() if snapshot is None else State.from_dict(snapshot))
    if state.config is not None:
        check_resume(config_from_dict(state.config, where="the run's ledger"), config)
    return state


def _drive(
    program: RunSpec,
    store: Store,
    dataset: Dataset,
    console: PlainConsole | RichBars,
    *,
    take_over: bool,
    until: Callable[[State], bool] = lambda state: False,
) -> State:
    """Hold the run's lease and drive it to its end."""
    config = program.config
    lease = Lease(store, config.run.name, say=console.say)
    lease.acquire(take_over=take_over)
    only = DriverLock(store.url, config.run.name, say=console.say)

    def guard() -> None:
        lease.check()
        only.check()

    ledger = Ledger(store, config.run.name, nonce=lease.nonce, guard=guard, say=console.say)
    board = Board(out_folder(config) / "tensorboard")
    with lease.kept(), ExitStack() as stack:
        stack.callback(board.close)
        count = upload_images(store, dataset, images_of(program))
        if count:
            console.say(f"{count} images put into {store.url}")
        world = stack.enter_context(running(program, store, dataset, console.say))
        if not store.conditional_writes():
            only.take(take_over=take_over)
        watch = Watchers(console, board, Cards(out_folder(config) / "cards", program))
        return Driver(program, store, ledger, world, watch, lease=lease).run(until)


def show(found: dict[str, Any], config: Config, console: PlainConsole | RichBars) -> None:
    """The final comparison."""
    console.say("")
    console.say("greedy accuracy in percent, 95 % intervals:")
    console.say(text_table(comparison_rows(found, config.data.test)))
    for line in [*difference_lines(found), *map(warning, found["warnings"])]:
        console.say(line)
    folder = out_folder(config)
    console.say(
        f"{found['wall_s']:.0f} s of work; figures: {folder / 'summary.json'}; curves: "
        f"{folder / 'tensorboard'}; a card of each policy: {folder / 'cards'}"
    )


if __name__ == "__main__":
    app()
