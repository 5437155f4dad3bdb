"""What a pool decides: who is blamed, when it breaks, how it breathes; engines are scripted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from actors.supervision.failures import CallResult, Failure
from actors.supervision.pool import Pool, PoolBroken, PoolSettings, Resized, Result
from actors.supervision.ray_actors import ActorLost
from tests.support.scripted_actors import Engines, Piece, done, scripted_pool

SETTINGS = PoolSettings(size=4, attempts=3, idle_s=100.0)


class Scene:
    """A pool over scripted engines, what it said, and what ended."""

    def __init__(self, settings: PoolSettings = SETTINGS, **engines: Any) -> None:
        self.engines = Engines(**engines)
        self.said: list[str] = []
        self.pool: Pool = scripted_pool(self.engines, settings, self.said)
        self.ended: dict[str, Result] = {}

    def submit(self, count: int, name: str = "shard") -> None:
        for number in range(count):
            self.pool.submit(Piece(f"{name}-{number}"))

    def pass_time(self, seconds: float) -> None:
        end = self.engines.now + seconds
        while self.engines.now < end:
            self.ended |= {result.key: result for result in self.pool.poll(1.0)}

    def finish(self) -> None:
        while self.pool.outstanding:
            self.pass_time(1.0)
            assert self.engines.now < 100_000, self.said

    @property
    def members(self) -> int:
        return len(self.pool._members)


def dies(work: Any) -> CallResult:
    raise ActorLost("CUDA out of memory")


@pytest.mark.parametrize("what", ["start", "run"])
def test_a_fleet_in_which_nothing_works_stops_after_its_attempts(what: str) -> None:
    """Eight engines, a shard of any number of questions: `attempts` deaths of each, within a minute
    of scripted time, and no further one."""
    scene = Scene(PoolSettings(size=8, attempts=5, inflight=2), **{what: dies}, run_s=1.0)
    scene.submit(32)
    with pytest.raises(PoolBroken, match=r"each of 8 was lost 5 times.*CUDA out of memory"):
        scene.finish()
    deaths = sum(" lost: CUDA" in line for line in scene.said)
    assert deaths == 8 * 5
    assert scene.engines.now <= 60.0


def test_engines_that_die_while_there_is_no_work_stop_nothing() -> None:
    scene = Scene(PoolSettings(size=2, attempts=2))
    scene.submit(4)
    scene.finish()
    scene.engines.start = dies
    scene.pool._lose(scene.pool._members[0], "killed by the kernel")
    scene.pass_time(300.0)
    assert sum("CUDA" in line for line in scene.said) > 2
    scene.engines.start = done
    scene.submit(4, "more")
    scene.finish()
    assert all(result.failure is None for result in scene.ended.values())


def test_a_shard_that_kills_its_engine_does_not_break_a_fleet_that_works() -> None:
    def run(work: Piece) -> CallResult:
        return dies(work) if work.key == "shard-0" else done(work)

    scene = Scene(PoolSettings(size=1, attempts=3, inflight=2), run=run)
    scene.submit(6)
    scene.finish()
    failed = [key for key, result in scene.ended.items() if result.failure is not None]
    assert failed == ["shard-0"]
    assert scene.ended["shard-0"].attempts == 3
    assert Counter(scene.engines.runs) == {"shard-0": 3, "shard-1": 2} | {
        f"shard-{number}": 1 for number in range(2, 6)
    }


def test_the_last_shard_that_kills_is_given_up_and_the_fleet_is_not() -> None:
    def run(work: Piece) -> CallResult:
        return dies(work) if work.key == "shard-1" else done(work)

    scene = Scene(PoolSettings(size=1, attempts=3), run=run)
    scene.submit(2)
    scene.finish()
    assert scene.ended["shard-1"].failure is not None
    assert scene.ended["shard-1"].killed == 3


def test_what_is_tried_alone_holds_up_half_of_the_fleet_at_most() -> None:
    killers = {f"shard-{number}" for number in range(8)}

    def run(work: Piece) -> CallResult:
        return dies(work) if work.key in killers else done(work)

    scene = Scene(PoolSettings(size=4, attempts=4, inflight=2), run=run)
    scene.submit(40)
    alone: list[int] = []
    while scene.pool.outstanding:
        scene.pass_time(1.0)
        members = scene.pool._members
        alone.append(sum(any(t.alone for t in m.runs.values()) for m in members))
    assert max(alone) <= 2
    assert {key for key, each in scene.ended.items() if each.failure is not None} == killers


@pytest.mark.parametrize("found_out", [0.0, 40.0])
def test_a_node_that_goes_costs_its_shards_nothing(found_out: float) -> None:
    """Also where the cluster finds out later than the driver that its actors do not answer."""
    scene = Scene(PoolSettings(size=2, attempts=1, inflight=2), found_out=found_out)
    scene.submit(4)
    scene.pass_time(8.0)
    scene.engines.gone = {"node-0", "node-1"}
    scene.finish()
    assert all(result.attempts == 1 and not result.killed for result in scene.ended.values())
    assert all(result.failure is None for result in scene.ended.values())
    assert sum("gone with its node" in line for line in scene.said) == 2


def test_an_actor_that_does_not_answer_on_a_living_node_is_lost() -> None:
    scene = Scene(PoolSettings(size=1, attempts=2), found_out=1e9)
    scene.submit(1)
    scene.pass_time(8.0)
    scene.engines.gone = {"node-0"}
    scene.finish()
    assert scene.ended["shard-0"].attempts == 2
    (line,) = [line for line in scene.said if "lost" in line]
    assert "it does not answer" in line
    assert scene.engines.now > 60.0


def test_an_engine_on_a_node_that_is_drained_ends_its_work_and_moves() -> None:
    scene = Scene(PoolSettings(size=2))
    scene.submit(6)
    scene.pass_time(7.0)
    scene.engines.draining = {"node-0"}
    scene.finish()
    assert len(scene.engines.runs) == 6
    assert all(result.attempts == 1 for result in scene.ended.values())
    assert any("being drained" in line for line in scene.said)
    assert {each.node for each in scene.engines.launched} == {"node-1", "node-2"}


@pytest.mark.parametrize("least", [0, 2])
def test_an_engine_lost_without_work_is_replaced_only_if_it_is_to_be_kept(least: int) -> None:
    scene = Scene(PoolSettings(size=2, least=least))
    scene.submit(2)
    scene.finish()
    scene.engines.draining = {"node-0"}
    scene.engines.gone = {"node-1"}
    scene.pass_time(20.0)
    assert len(scene.engines.launched) == least
    scene.submit(2, "more")
    scene.finish()
    assert {each.node for each in scene.engines.launched} == {"node-2", "node-3"}


def test_a_pool_grows_with_its_work_and_is_given_back_when_idle() -> None:
    scene = Scene(PoolSettings(size=4, least=1, idle_s=100.0, inflight=2))
    scene.pass_time(10.0)
    assert scene.members == 0
    scene.submit(3)
    scene.pass_time(1.0)
    assert scene.members == 2
    scene.submit(20, "more")
    scene.pass_time(1.0)
    assert scene.members == 4
    scene.finish()
    scene.pass_time(98.0)
    assert scene.members == 4
    scene.pass_time(10.0)
    assert (scene.members, len(scene.engines.launched)) == (1, 1)
    scene.submit(8, "again")
    scene.finish()
    sizes = [(change.before, change.after) for change in scene.pool.resized()]
    # Two of them had their last work earlier than the others.
    assert sizes == [(0, 2), (2, 4), (4, 2), (2, 1), (1, 4)]
    assert not scene.pool.resized()
    assert scene.engines.starts == 4 + 3


def test_idle_engines_make_room_for_another_role_and_busy_ones_end_their_work() -> None:
    scene = Scene(PoolSettings(size=2))
    scene.submit(3)
    scene.pass_time(12.0)
    scene.pool.yielding = True
    scene.pass_time(30.0)
    assert scene.members == 0
    assert len(scene.ended) == 2
    scene.pool.yielding = False
    scene.finish()
    why = "another role waits for room"
    changes = [change for change in scene.pool.resized() if change.reason == why]
    assert changes == [Resized("engine", 2, 0, why)]


def test_a_wait_for_room_is_told_at_a_growing_interval() -> None:
    scene = Scene(PoolSettings(size=3, attempts=1), room=1)
    scene.submit(100)
    scene.pass_time(500.0)
    told = [line for line in scene.said if "wait for room" in line]
    assert 5 <= len(told) <= 7
    assert "2 of 3 wait for room" in told[0]
    assert scene.pool.waited_s == 0.0  # one of them works
    scene.engines.room = 3
    scene.finish()
    assert len([line for line in scene.said if "wait for room" in line]) <= 7


def test_work_that_nobody_can_begin_waits_for_its_turn() -> None:
    scene = Scene(PoolSettings(size=2), room=0)
    scene.pass_time(50.0)
    assert scene.pool.waited_s == 0.0
    scene.submit(1)
    scene.pass_time(50.0)
    assert scene.pool.waited_s == pytest.approx(50.0, abs=3.0)
    scene.engines.room = 2
    scene.finish()
    assert scene.pool.waited_s == 0.0


def test_a_policy_that_is_gone_ends_the_work_it_was_started_for_once() -> None:
    """Whoever submitted it mends it; the others of the fleet try again."""
    broken = [True]

    def start(work: Piece) -> CallResult:
        if broken[0]:
            return CallResult(failure=Failure("lost", "it is corrupt", "policies/a"))
        return done(work)

    scene = Scene(PoolSettings(size=2, attempts=3), start=start)
    scene.submit(3)
    while not scene.ended:
        scene.pass_time(1.0)
    assert {key: result.failure for key, result in scene.ended.items()} == {
        "shard-0": Failure("lost", "it is corrupt", "policies/a")
    }
    broken[0] = False
    scene.pool.submit(Piece("shard-0"))
    scene.finish()
    assert all(result.failure is None for result in scene.ended.values())


def test_what_engines_run_as_is_said_once() -> None:
    scene = Scene(PoolSettings(size=2), start=lambda work: CallResult("vLLM 1, model runner V2"))
    scene.submit(6)
    scene.finish()
    assert sum("runs as vLLM 1, model runner V2" in line for line in scene.said) == 1
