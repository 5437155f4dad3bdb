"""Two drivers of one run at the same moment, with real leases, on every kind of store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.context import RunContext
from pipeline.driver.driver import drive
from pipeline.run.events.training import JobDone
from pipeline.run.events.wire import replay
from pipeline.run.lease import Lease, LeaseHeld, Process
from pipeline.run.ledger import Ledger, LedgerFenced
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.simulation.workers import Hooked, scripted_workers
from pipeline.storage.store import Store, open_store
from tests.support.chaos_world import RUN, small_config
from tests.support.s3_servers import bucket_store, moto_server, rclone_server
from tests.support.scripted import Clock, Quiet, make_program, with_base

TTL_S = 9.0
ELSEWHERE = Process("another host", 1)  # so that it is watched, not looked up
OpenStore = Callable[[], Store]


@pytest.fixture(params=["folder", "moto", "rclone"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the same store anew: every driver has its own connection."""
    with ExitStack() as stack:
        if request.param == "folder":
            yield lambda: open_store(tmp_path / "store")
            return
        if request.param == "moto":
            stack.enter_context(moto_server())
        else:
            stack.enter_context(rclone_server(tmp_path / "s3"))
        yield lambda: bucket_store("two-drivers")


def live(
    store: Store,
    program: RunSpec,
    watch: Quiet,
    *,
    take_over: bool = False,
    pause: Callable[[], None] = lambda: None,
) -> State:
    """A whole driver, as `jobs.run` makes one; it pauses before every shard that it submits."""
    lease = Lease(store, RUN, ttl_s=TTL_S, say=watch.say, process=ELSEWHERE)
    lease.acquire(take_over=take_over)
    ledger = Ledger(store, RUN, nonce=lease.nonce, guard=lease.check, say=watch.say)
    scripted = scripted_workers(store, program)
    fleet = Hooked(scripted.fleet, "fleet", lambda call: _rest(call, pause))
    workers = replace(scripted.workers, fleet=fleet)
    with lease.kept():
        context = RunContext(
            program, store, ledger, workers, watch, lease=lease, sleep=Clock().sleep
        )
        return drive(context)


def _rest(call: str, pause: Callable[[], None]) -> None:
    if call == "before fleet.submit":
        pause()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def once_each(events: Sequence[Mapping[str, Any]]) -> None:
    """No shard was accepted twice."""
    accepted = [(e["purpose"], e["index"]) for e in events if e["type"] == "shard_accepted"]
    assert len(accepted) == len(set(accepted))


def test_a_live_driver_is_left_alone_until_it_is_taken_over(
    opened: OpenStore, tmp_path: Path
) -> None:
    program = make_program(with_base(small_config(), tmp_path / "base"))
    first, second = Quiet(), Quiet()
    ended: list[BaseException | State] = []

    def accepted_one() -> bool:
        return any(event.type == "shard_accepted" for event in first.events)

    def pause() -> None:
        """The first stays in the middle of its run until the second has taken it over."""
        if accepted_one():
            wait_until(lambda: bool(second.events))

    def first_life() -> None:
        try:
            ended.append(live(opened(), program, first, pause=pause))
        except LedgerFenced as error:
            ended.append(error)

    thread = threading.Thread(target=first_life, daemon=True)
    thread.start()
    wait_until(lambda: accepted_one() or not thread.is_alive())
    assert thread.is_alive()
    with pytest.raises(LeaseHeld, match="is being driven by process 1 on another host"):
        live(opened(), program, second)
    assert not second.events
    state = live(opened(), program, second, take_over=True)
    thread.join(60)
    assert state.finished is not None
    (fenced,) = ended
    assert isinstance(fenced, LedgerFenced)
    assert "taken" in str(fenced)

    events = list(Ledger(opened(), RUN).replay())
    once_each(events)
    nonces = [entry.nonce for entry in Ledger(opened(), RUN).entries()]
    assert [a != b for a, b in pairwise(nonces)].count(True) == 1
    assert replay(events) == state


def test_a_run_goes_on_with_more_ranks_and_says_what_that_means(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    config = with_base(small_config(), tmp_path / "base")
    watch = Quiet()

    class Stop(Exception):
        pass

    def stop(event: Any, state: State) -> None:
        if isinstance(event, JobDone) and event.job == "evolve/0":
            raise Stop

    watch.event = stop  # type: ignore[method-assign]
    with pytest.raises(Stop):
        live(store, make_program(config), watch)
    more = config.model_copy(update={"learn": config.learn.model_copy(update={"ranks": 2})})
    watch = Quiet()
    assert live(store, make_program(more), watch).finished is not None
    (said,) = [line for line in watch.said if "learn.ranks: 1 -> 2" in line]
    assert "no longer bit-identical" in said
