"""The driver under everything at once: killed, overtaken, its answers late, doubled and out of
order, its engines and ranks dead, its objects damaged, at any call of the store, engines, grader or
learner.

100 examples here; `MSTAR_EXAMPLES=5000` (what `make chaos` asks for) makes more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pipeline.phases.order import PHASES, Phase
from pipeline.run.events.wire import replay
from tests.support.chaos_memory import Damage
from tests.support.chaos_world import EXPLORING, Fault, Lives, undisturbed
from tests.support.side_by_side import SIDE_BY_SIDE

EXAMPLES = int(os.environ.get("MSTAR_EXAMPLES", "100"))
CALLS = 1000
"""Roughly the calls of a whole life; a fault behind the last one does not happen."""

damages = st.sampled_from(("flip", "cut", "empty", "remove"))
faults = st.builds(
    Fault,
    at=st.one_of(st.integers(1, CALLS // 6), st.integers(1, CALLS)),
    kind=st.sampled_from(
        (
            "crash_before",
            "crash_after",
            "lose_request",
            "lose_answer",
            "damage",
            "overtake",
            "wake",
            "fail",
        )
    ),
    pick=st.integers(0, 400),
    damage=damages,
)


class AnythingHappens(RuleBasedStateMachine):
    """Lives of drivers, until the last one is left alone and must finish as if nothing was."""

    def __init__(self, phases: Sequence[Phase] = PHASES, *, exploring: bool = False) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.exploring = exploring
        changes = EXPLORING if exploring else {}
        self.lives = Lives(Path(self.folder.name), phases, **changes)

    @rule(
        faults=st.lists(faults, max_size=4),
        seed=st.integers(0, 50),
        twice=st.sampled_from((0.0, 0.3)),
        slow=st.sampled_from((0.0, 0.5)),
        copies=st.booleans(),
    )
    def a_driver_lives(
        self, faults: list[Fault], seed: int, twice: float, slow: float, copies: bool
    ) -> None:
        self.lives.live(faults, seed=seed, twice=twice, slow=slow, copies=copies)
        self.lives.heal_ledger()
        self.lives.check_ledger()

    @rule(pick=st.integers(0, 400), how=damages)
    def an_object_rots(self, pick: int, how: Damage) -> None:
        self.lives.damage(pick, how)

    def teardown(self) -> None:
        with self.folder:
            self._ends_the_same()

    def _ends_the_same(self) -> None:
        self.lives.heal()
        state = self.lives.live()
        assert state is not None
        assert state == replay(self.lives.events())
        assert self.lives.outcome() == undisturbed(exploring=self.exploring)
        self.lives.check_ledger()
        self.lives.check_checkpoints(state)


@pytest.mark.timeout(max(3600, 3 * EXAMPLES))
@pytest.mark.parametrize(
    ("phases", "examples", "exploring"),
    [
        (PHASES, EXAMPLES, False),
        (SIDE_BY_SIDE, EXAMPLES // 4, False),
        (PHASES, EXAMPLES // 12, True),
    ],
    ids=["one step at a time", "steps side by side", "exploring"],
)
def test_whatever_happens_the_run_ends_the_same(
    phases: Sequence[Phase], examples: int, exploring: bool
) -> None:
    run_state_machine_as_test(
        partial(AnythingHappens, phases, exploring=exploring),  # type: ignore[arg-type]
        settings=settings(max_examples=examples, stateful_step_count=6, deadline=None),
    )
