"""What a person runs: one module for each command of `mstar-ray`, and what they share below."""

from __future__ import annotations

import sys

# While `python -m jobs.runtime.console` imports this package, that is all there is of it.
if sys.argv[0] == "-m" and (asked := sys.orig_argv[sys.orig_argv.index("-m") + 1]).startswith(
    "jobs.runtime."
):
    print(f"{asked} is no command: mstar-ray --help lists those there are", file=sys.stderr)
    sys.exit(2)
