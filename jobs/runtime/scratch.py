"""A folder for what a job leaves nothing of."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.supervision.node_cache import hold, let_go, sweep
from jobs.runtime.prepare import out_folder
from pipeline.config.schema import Config


@contextmanager
def scratch_folder(config: Config) -> Iterator[Path]:
    """A folder that is removed at the end; those of killed jobs go, too."""
    folder = (out_folder(config) / "validate" / secrets.token_hex(4)).absolute()
    hold(folder)
    try:
        yield folder
    finally:
        let_go(folder)
        sweep(folder.parent)
