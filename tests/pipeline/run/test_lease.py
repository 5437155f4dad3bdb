"""The lease: one driver at a time, a clear word to the second, no clock compared."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StoreRefused, StoreUnavailable, UserError
from pipeline.run.lease import Lease, LeaseHeld, Process, Tenure, is_dead, last_tenure, this_process
from pipeline.run.ledger import Ledger, LedgerFenced
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store, open_store
from tests.support.scripted_store import Fault, ScriptedBackend

ROOT = Path(__file__).resolve().parents[3]

ELSEWHERE = Process("other-host", 4711)


class Time:
    """A clock that moves when somebody sleeps, and what else happens then."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.events: dict[float, Any] = {}

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        for moment in sorted(self.events):
            if moment <= self.now_s:
                self.events.pop(moment)()


@pytest.fixture
def store() -> Store:
    return Store(MemoryBackend(), say=lambda line: None)


@pytest.fixture
def time() -> Time:
    return Time()


def lease(store: Store, time: Time | None = None, **more: Any) -> Lease:
    time = time or Time()
    settings: dict[str, Any] = {
        "clock": lambda: time.now_s,
        "sleep": time.sleep,
        "process": ELSEWHERE,
        "say": lambda line: None,
    }
    return Lease(store, "run", **{**settings, **more})


def held(store: Store, time: Time | None = None, **more: Any) -> Lease:
    """A lease that is acquired."""
    mine = lease(store, time, **more)
    mine.acquire()
    return mine


def test_the_first_driver_waits_for_nobody(store: Store, time: Time) -> None:
    first = held(store, time)
    assert time.now_s == 1000.0
    assert first.inherited_position == -1
    found = last_tenure(store, "run")
    assert found is not None
    assert found[0] == Tenure(0, first.nonce, ELSEWHERE, 15.0)


def test_a_released_lease_is_free_at_once_and_hands_its_position_on(
    store: Store, time: Time
) -> None:
    first = held(store)
    first.position = 41
    first.release()
    second = held(store, time)
    assert time.now_s == 1000.0
    assert second.inherited_position == 41


def test_a_live_lease_refuses_the_second_driver_and_says_what_to_do(
    store: Store, time: Time
) -> None:
    first = held(store)
    time.events[1004.0] = first.renew
    said: list[str] = []
    with pytest.raises(LeaseHeld) as caught:
        lease(store, time, say=said.append).acquire()
    assert isinstance(caught.value, UserError)
    assert "process 4711 on other-host" in str(caught.value)
    assert "--take-over" in str(caught.value)
    assert "watching for 15 s" in said[0]
    assert time.now_s < 1007.0, "it is refused as soon as the other is seen alive"
    first.renew()


def test_a_lease_unchanged_for_its_own_time_to_live_has_expired(store: Store, time: Time) -> None:
    first = held(store, ttl_s=60.0)
    lease(store, time, ttl_s=5.0).acquire()
    assert 1060.0 <= time.now_s <= 1067.0, "the holder's time to live counts, not the newcomer's"
    with pytest.raises(LedgerFenced, match="taken it over"):
        first.renew()
    with pytest.raises(LedgerFenced):
        first.check()


def test_a_time_in_which_the_store_was_away_does_not_count(store: Store, time: Time) -> None:
    first = held(store)

    def outage() -> None:
        time.now_s += 3600.0
        time.events[time.now_s + 4.0] = first.renew

    time.events[1002.0] = outage
    with pytest.raises(LeaseHeld):
        lease(store, time).acquire()


def test_take_over_waits_for_nobody_and_fences_the_first(store: Store, time: Time) -> None:
    first = held(store)
    second = lease(store, time)
    second.acquire(take_over=True)
    assert time.now_s == 1000.0
    with pytest.raises(LedgerFenced):
        first.renew()
    second.renew()
    second.check()


def test_of_two_newcomers_one_wins(store: Store, time: Time) -> None:
    lease(store).acquire()
    quick, slow = lease(store), lease(store, time)
    time.events[1014.9] = lambda: quick.acquire(take_over=True)
    with pytest.raises(LeaseHeld):
        slow.acquire()
    quick.check()


def test_a_newcomer_that_was_overtaken_after_its_last_look_takes_nothing(
    store: Store, time: Time
) -> None:
    lease(store).acquire()
    quick = lease(store)

    def clock() -> float:
        if time.now_s >= 1015.0:  # asked after the last look
            time.events[0.0] = lambda: quick.acquire(take_over=True)
            time.sleep(0.0)
        return time.now_s

    with pytest.raises(LeaseHeld, match="at this moment"):
        lease(store, time, clock=clock).acquire()
    quick.check()


def test_two_newcomers_at_the_same_instant(store: Store) -> None:
    other = lease(store)

    def meanwhile(operation: str, path: str, _number: int) -> Fault | None:
        if operation == "create" and not store.exists(path):
            other.acquire()
        return None

    late = lease(Store(ScriptedBackend(store.backend, meanwhile)))
    with pytest.raises(LeaseHeld, match="at this moment"):
        late.acquire()
    other.check()


def test_a_damaged_lease_blocks_for_its_time_and_no_longer(store: Store, time: Time) -> None:
    lease(store).acquire()
    store.replace("runs/run/lease/000000.json", b'{"epoch": 0, "nonce"')
    second = held(store, time)
    assert 1015.0 <= time.now_s <= 1018.0
    second.check()


def test_a_holder_seen_dead_on_this_machine_is_not_waited_for(store: Store, time: Time) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        birth = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        me = this_process()
        holder = Process(me.host, child.pid, me.machine, birth)
        lease(store, process=holder).acquire()
        assert not is_dead(holder)

        def die() -> None:
            child.kill()
            # dead, not buried: its parent has not waited for it
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

        time.events[1004.0] = die
        lease(store, time).acquire()
        assert time.now_s < 1007.0
        assert is_dead(holder)
        child.wait()
    assert is_dead(holder)


def test_only_what_can_be_seen_is_called_dead() -> None:
    me = this_process()
    assert not is_dead(me)
    assert is_dead(Process(me.host, me.pid, me.machine, "1")), "another one had this number before"
    assert not is_dead(Process(me.host, 2**22 + 1, "another boot", "1"))
    assert not is_dead(Process(me.host, 2**22 + 1, "", ""))
    assert is_dead(Process(me.host, 2**22 + 1, me.machine, "1"))


def test_the_lease_says_no_more_than_who(store: Store) -> None:
    lease(store, process=this_process()).acquire()
    text = store.get("runs/run/lease/000000.json").decode()
    assert set(re.findall(r'"(\w+)":', text)) == {
        *("epoch", "nonce", "holder", "ttl_s", "beat", "position", "released"),
        *("host", "pid", "machine", "birth"),
    }


# --- kept in the background -----------------------------------------------------------------------


def until(what: threading.Event) -> None:
    assert what.wait(60.0)


def test_a_kept_lease_is_renewed_and_released(store: Store) -> None:
    beats = threading.Event()

    def count(operation: str, _path: str, _number: int) -> Fault | None:
        if operation == "write" and (found := last_tenure(store, "run")) and found[0].beat >= 2:
            beats.set()
        return None

    mine = held(Store(ScriptedBackend(store.backend, count)), ttl_s=0.03)
    with mine.kept():
        mine.position = 7
        until(beats)
    found = last_tenure(store, "run")
    assert found is not None
    assert (found[0].released, found[0].position) == (True, 7)


def test_a_lease_lost_while_kept_shows_at_the_next_check_and_is_not_released(store: Store) -> None:
    lost = threading.Event()
    first = held(store, ttl_s=0.03, say=lambda line: lost.set())
    second = lease(store)

    def drive() -> None:
        with first.kept():
            second.acquire(take_over=True)
            until(lost)
            first.check()

    with pytest.raises(LedgerFenced):
        drive()
    assert (found := last_tenure(store, "run"))
    assert not found[0].released
    assert found[0].nonce == second.nonce


def test_a_store_that_is_away_for_a_moment_does_not_end_the_lease(store: Store) -> None:
    renewed = threading.Event()
    writes = 0

    def away(operation: str, _path: str, _number: int) -> Fault | None:
        nonlocal writes
        if operation == "write":
            writes += 1
            if writes > 3:
                renewed.set()
                return None
            return "lose_request"
        return None

    backend = ScriptedBackend(store.backend, away)
    mine = held(Store(backend, patience_s=0.0, say=lambda line: None), ttl_s=0.03)
    with mine.kept():
        until(renewed)
        mine.check()


def test_a_store_that_refuses_ends_the_lease(store: Store) -> None:
    class Refusing(MemoryBackend):
        def write(self, path: str, data: bytes) -> None:
            raise StoreRefused("permissions were withdrawn")

    said = threading.Event()
    mine = held(Store(Refusing()), ttl_s=0.03, say=lambda line: said.set())

    def drive() -> None:
        with mine.kept():
            until(said)
            mine.check()

    with pytest.raises(StoreRefused, match="withdrawn"):
        drive()


def test_a_driver_that_fails_for_another_reason_releases_its_lease(store: Store) -> None:
    mine = held(store)
    with pytest.raises(KeyboardInterrupt), mine.kept():
        raise KeyboardInterrupt
    assert (found := last_tenure(store, "run"))
    assert found[0].released


def test_a_driver_whose_store_is_away_does_not_wait_to_release(store: Store) -> None:
    mine = held(store)
    with pytest.raises(StoreUnavailable), mine.kept():
        raise StoreUnavailable("gone")
    assert (found := last_tenure(store, "run"))
    assert not found[0].released


# --- lease and ledger together --------------------------------------------------------------------

DRIVER = """
    import sys, time
    from pipeline.run.lease import Lease, LeaseHeld
    from pipeline.run.ledger import Ledger, LedgerFenced
    from pipeline.storage.store import open_store
    store = open_store(sys.argv[1])
    lease = Lease(store, "run", ttl_s=15.0)
    try:
        lease.acquire(take_over="--take-over" in sys.argv)
    except LeaseHeld as error:
        sys.exit(f"held: {error}")
    ledger = Ledger(store, "run", nonce=lease.nonce, guard=lease.check)
    seen = [event["n"] for event in ledger.resume(at_least=lease.inherited_position)[1]]
    with lease.kept():
        try:
            ledger.claim({"type": "driver_started", "n": -1}, lambda event: seen.append(event["n"]))
            while True:
                number = sum(n >= 0 for n in seen)
                seen.append(number)
                lease.position = ledger.append([{"type": "shard_accepted", "n": number}])
                print(number, flush=True)
                time.sleep(0.005)
        except LedgerFenced as error:
            sys.exit(f"fenced: {error}")
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), str(folder), *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(driver: subprocess.Popen[str], lines: int) -> list[int]:
    assert driver.stdout is not None
    return [int(driver.stdout.readline()) for _ in range(lines)]


def test_real_drivers_killed_refused_and_taken_over(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    for _ in range(3):
        with start(tmp_path) as driver:
            acknowledged += wait_for(driver, 5)
            driver.send_signal(signal.SIGKILL)
            assert driver.stdout is not None
            acknowledged += [int(line) for line in driver.stdout.read().split()]
    with start(tmp_path) as first:
        acknowledged += wait_for(first, 1)
        with start(tmp_path) as second:
            _, said = second.communicate(timeout=60.0)
            assert second.returncode == 1
            assert said.strip().endswith("the other stops at its next write.")
        with start(tmp_path, "--take-over") as third:
            more = wait_for(third, 5)
            left, said = first.communicate(timeout=60.0)
            assert first.returncode == 1
            assert "fenced: run run: another driver has taken" in said
            acknowledged += [int(line) for line in left.split()] + more
            third.send_signal(signal.SIGINT)
            left, _ = third.communicate(timeout=60.0)
            acknowledged += [int(line) for line in left.split()]
    there = [event["n"] for event in Ledger(open_store(tmp_path), "run").replay()]
    written = [number for number in there if number >= 0]
    assert written == list(range(len(written))), "nothing twice, nothing lost"
    assert there.count(-1) == 5
    assert acknowledged == sorted(set(acknowledged))
    assert set(acknowledged) <= set(written)
    assert len(written) - len(acknowledged) <= 5, "at most one unacknowledged write for each death"
    assert (found := last_tenure(open_store(tmp_path), "run"))
    assert found[0].released
