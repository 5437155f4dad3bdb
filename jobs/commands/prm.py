"""`mstar-ray prm`."""

from __future__ import annotations

from jobs.runtime.cli import ending
from jobs.runtime.options import GOES_ON, BadRows, Recipe, Run, Set, Store, TakeOver, settings


def prm(
    recipe: Recipe = "digits",
    set_: Set = None,
    run: Run = None,
    store: Store = None,
    bad_rows: BadRows = None,
    *,
    take_over: TakeOver = False,
) -> None:
    """Build a run's process reward model, and show its card.

    This is the run up to where its process reward model is judged; `mstar-ray run` goes on from
    there. The card is written to OUT/RUN/prm_card.json.

    Example: mstar-ray prm --recipe digits
    """
    with ending(GOES_ON):
        from jobs.prm import prm
        from jobs.runtime.bad_rows import bad_rows_to

        with bad_rows_to(bad_rows):
            prm(settings(recipe, set_, run, store), take_over=take_over)
