"""Roles that cannot be there together: who has the turn, and that every turn ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.supervision.pool import PoolSettings
from actors.supervision.turns import Turns
from tests.support.scripted_actors import Engines, Piece, scripted_pool


class ScriptedRole:
    def __init__(self, name: str) -> None:
        self.name = name
        self.yielding = False
        self.waited_s = 0.0


@given(st.lists(st.lists(st.floats(0.0, 200.0), min_size=3, max_size=3), max_size=20))
def test_one_at_most_has_the_turn_and_keeps_it_until_it_has_room(
    waits: list[list[float]],
) -> None:
    roles = [ScriptedRole(name) for name in ("engine", "scorer", "learner")]
    turns = Turns(roles, 60.0, lambda text: None)
    before: list[ScriptedRole] = []
    for row in waits:
        for role, waited_s in zip(roles, row, strict=True):
            role.waited_s = waited_s
        turns.tend()
        holders = [role for role in roles if not role.yielding]
        assert len(holders) in (1, len(roles))
        if len(holders) == 1:
            (holder,) = holders
            assert holder.waited_s
            assert holder.waited_s > 60.0 or before == holders
        elif len(before) == 1:
            assert not before[0].waited_s
        else:
            assert all(role.waited_s <= 60.0 for role in roles)
        before = holders


def test_two_pools_that_do_not_fit_beside_each_other_both_end_their_work() -> None:
    """Room for two actors, three engines and two scorers at most; nobody is given back when idle.
    The scorers wait for their turn, and the engines for theirs."""
    cluster = Engines(room=2)
    settings = PoolSettings(size=2, least=2, idle_s=1e9)
    said: list[str] = []
    engines = scripted_pool(cluster, PoolSettings(size=3, least=3, idle_s=1e9), said)
    scorers = scripted_pool(cluster, settings, said)
    turns = Turns([engines, scorers], 60.0, said.append)
    for number in range(12):
        engines.submit(Piece(f"shard-{number}"))
    ended = []
    for _ in range(3000):
        fresh = engines.poll(0.5)
        for result in fresh:
            scorers.submit(Piece(f"score {result.key}"))
        ended += [*fresh, *scorers.poll(0.5)]
        turns.tend()
        if len(ended) == 24:
            break
    assert len(ended) == 24
    assert all(result.attempts == 1 for result in ended)
    assert any("cluster.turn_s" in line for line in said)
