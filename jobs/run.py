"""Run M-STaR's continuous self-evolving loop: `mstar-ray run --recipe digits`.

The same command starts a run, goes on with one that was interrupted, and says so when it is done.
`--set section.key=value` changes one setting, as often as wanted. Outputs are in <out>/<run>/:
summary.json, tensorboard/, and the store unless it is elsewhere (then what a person reads is copied
there, too: `jobs.runtime.stored_outputs`).

This module only wires: settings to pools, pools to the driver. What is wrong is said before
anything is written or started, as far as it can be known by then.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from actors.generation.engine_settings import engine_settings
from jobs.runtime.cards import Cards
from jobs.runtime.cli import command, write_json
from jobs.runtime.cluster_job import check_shared
from jobs.runtime.code_identity import say_code
from jobs.runtime.console import make_console, warning
from jobs.runtime.export import export_policy
from jobs.runtime.prepare import (
    check_outputs,
    images_of,
    load_data,
    open_run_store,
    out_folder,
    upload_images,
)
from jobs.runtime.stored_outputs import StoredOutputs
from jobs.runtime.tensorboard import Board
from jobs.runtime.watchers import Watchers
from jobs.runtime.world import REAL, Parts, check_here, run_store
from pipeline.config.load import stored_config
from pipeline.config.resume import check_resume
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.driver.context import RunContext
from pipeline.driver.driver import drive
from pipeline.driver.finish import lost_evaluations
from pipeline.grading.grade import grader_version
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
from pipeline.run.stored import StoredRun
from pipeline.stages.workers import Watch
from pipeline.storage.store import Store

Until = Callable[[State], bool]


def evolve(config: Config, *, take_over: bool = False, parts: Parts = REAL) -> dict[str, Any]:
    """The run that a configuration describes, to its end; what `summary.json` holds.

    parts: what carries it out.

    Raises:
        UserError: a person has to mend something. StoreError: the store gave up.
    """
    with closing(make_console(config.run.console)) as console:
        job = Job(config, console, parts)
        done = job.state.finished
        if done is not None and not lost_evaluations(job.state, job.program, job.store, done):
            for change in changes_since(job.program, job.state):
                console.say(f"changed since the run was started: {change}")
            console.say(f"run {config.run.name} is finished; nothing is left to do")
        else:
            for line in data_warnings(job.program):
                console.say(warning(line))
            job.drive(take_over=take_over)
        found = summary(job.state, job.program, job.store)
        path = out_folder(config) / "summary.json"
        write_json(path, found)
        job.outputs.copy()
        show(found, config, console)
        if job.state.finished is not None:
            job.hand_over()
        return found


def drive_to(config: Config, until: Until, *, take_over: bool = False) -> State:
    """The run that a configuration describes, up to a state."""
    with closing(make_console(config.run.console)) as console:
        job = Job(config, console, REAL)
        if job.state.finished is None and not until(job.state):
            job.drive(until, take_over=take_over)
        return job.state


class Job:
    """A run that is ready to be driven: its settings, data and store are checked, and what its
    ledger says so far is read, without a lease.

    Raises:
        BadConfig, BadData: naming what does not fit.
    """

    def __init__(self, config: Config, console: Watch, parts: Parts) -> None:
        self.console = console
        self.parts = parts
        if config.cluster.address is not None:
            check_shared(config)
            say_code(console.say)
        self.state = state_so_far(config, open_run_store(config, console.say))
        if self.state.config is None:
            check_outputs(config)
        check_here(config)
        self.store = run_store(config, console.say)
        self.outputs = StoredOutputs(out_folder(config), self.store, config.run.name)
        self.dataset: Dataset = load_data(config, console.say)
        engine = engine_settings(config).identity()
        self.program = RunSpec.of(
            config, self.dataset, engine, grader_version(config.prompt.shapes)
        )
        check_same_data(self.store, self.program, self.state)

    def drive(self, until: Until = lambda state: False, *, take_over: bool) -> None:
        """Hold the run's lease and drive it to its end, or up to a state."""
        config, store, say = self.program.config, self.store, self.console.say
        check_same_means(self.program, self.state)
        self.parts.check_models(config)
        self.parts.check_queries(self.program, self.dataset, say)
        lease = Lease(store, config.run.name, ttl_s=config.store.lease_s, say=say)
        lease.acquire(take_over=take_over)
        lock_s = config.cluster.lock_s
        only = self.parts.lock(store.url, config.run.name, say=say, answer_s=lock_s)

        def guard() -> None:
            lease.check()
            only.check()

        ledger = Ledger(store, config.run.name, nonce=lease.nonce, guard=guard, say=say)
        board = Board(out_folder(config) / "tensorboard")
        with lease.kept(), closing(board), ExitStack() as stack:
            # Ray comes first: what its cluster can never hold is refused before images are put.
            kept = self.parts.workers(self.program, store, self.dataset, say)
            workers = stack.enter_context(kept)
            count = upload_images(store, self.dataset, images_of(self.program))
            if count:
                say(f"{count} images put into {store.url}")
            if not store.conditional_writes():
                only.take(take_over=take_over)
            cards = Cards(out_folder(config) / "cards", self.program)
            watch = Watchers(self.console, board, cards, self.outputs)
            context = RunContext(
                self.program, store, ledger, workers, watch, lease=lease, sleep=self.parts.sleep
            )
            self.state = drive(context, until)

    def hand_over(self) -> None:
        """The final policy as a folder that a person can open, and its hash: a run's last line."""
        policy = named_policies(self.state)["final"]
        folder = out_folder(self.program.config) / "final"
        entry = StoredRun(self.store, self.program.config.run.name).entry_of(policy)
        card, say = model_card("final", self.state, self.program, entry), self.console.say
        export_policy(self.store, policy, folder, card, say)
        sha256 = policy.path.rsplit("/", 1)[-1]
        say(f"final policy ({chain_of('final', self.state)}): {folder}, sha256 {sha256}")


def state_so_far(config: Config, store: Store) -> State:
    """What the ledger says of this run, read without a lease and without starting anything.

    Raises:
        BadConfig: the run was started under settings of another meaning.
    """
    snapshot, events = Ledger(store, config.run.name).resume()
    state = replay(events, State() if snapshot is None else State.from_dict(snapshot))
    if state.config is not None:
        check_resume(stored_config(state.config), config)
    return state


def show(found: dict[str, Any], config: Config, console: Watch) -> None:
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
    command("run")
