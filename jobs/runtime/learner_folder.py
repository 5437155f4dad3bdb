"""The folder that one driver's learner works in: its own, and heir to what dead ones kept.

A driver that was fenced may still be at work on this machine, and so may a validation beside a run:
what one of them writes or clears away must never be another's. Only what nobody works with any more
changes hands: the policies and checkpoints that a dead driver kept, which are named by their hashes
and checked whenever they are used. They spare a download, and are what the store is mended from.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.supervision.node_cache import hold, let_go, sweep
from jobs.runtime.prepare import out_folder
from pipeline.config.schema import Config

KEPT = ("policies", "checkpoints")


@contextmanager
def learner_folder(config: Config) -> Iterator[Path]:
    """A folder for this driver's learner. What it keeps is left to the next driver of the run where
    this one did not come to its end, and is removed where it did."""
    folder = (out_folder(config) / "learner" / secrets.token_hex(4)).absolute()
    hold(folder, salvage=lambda dead: _inherit(dead, folder))
    try:
        yield folder
    finally:
        let_go(folder)
    sweep(folder.parent)


@contextmanager
def scratch_folder(config: Config) -> Iterator[Path]:
    """A folder for a learner that leaves nothing; those of killed jobs go, too."""
    folder = (out_folder(config) / "validate" / secrets.token_hex(4)).absolute()
    hold(folder)
    try:
        yield folder
    finally:
        let_go(folder)
        sweep(folder.parent)


def _inherit(dead: Path, mine: Path) -> None:
    """Move what a dead driver kept; files that it was still writing are not in these folders."""
    for kind in KEPT:
        for kept in (dead / kind).glob("[!.]*"):
            target = mine / kind / kept.name
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                kept.rename(target)
