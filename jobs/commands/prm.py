"""`mstar-ray prm`."""

from __future__ import annotations

from jobs.runtime.cli import ending
from jobs.runtime.options import GOES_ON, Recipe, Run, Set, Store, TakeOver, settings


def prm(
    recipe: Recipe = "digits",
    set_: Set = None,
    run: Run = None,
    store: Store = None,
    take_over: TakeOver = False,
) -> None:
    """Build a run's process reward model, and show its card.

    This is the run up to where its process reward model is judged; `mstar-ray run` goes on from
    there. The card is written to OUT/RUN/prm_card.json.

    Example: mstar-ray prm --recipe digits
    """
    with ending(GOES_ON):
        from jobs.prm import prm

        prm(settings(recipe, set_, run, store), take_over=take_over)
