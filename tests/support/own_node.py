"""A Ray node on this machine that shares no folder with the others but the code.

`python -m tests.support.own_node HIDDEN [ray start options]` hides a folder with all that lies in
it behind an empty one in memory, works in a folder there, and is the node from then on. It has to
be the first process in namespaces of its own (`node_command`); what it started ends with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
ALONE = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]


def check_namespaces() -> None:
    """Fail, and say why, where this machine does not permit what the nodes are made of."""
    tried = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    assert tried.returncode == 0, (
        f"this test needs mount and process namespaces, and they are not permitted here "
        f"({tried.stderr.strip()}): run it as root, or in a container with CAP_SYS_ADMIN"
    )


def node_command(options: Sequence[str], hidden: Path | None = None) -> list[str]:
    """A Ray node whose processes all end with it. hidden: what it must not see."""
    if hidden is None:
        return [*ALONE, *RAY, *options]
    return [*ALONE, sys.executable, "-m", "tests.support.own_node", str(hidden), *options]


def hide(hidden: Path) -> None:
    """Put an empty folder in the place of one, with nothing in it but this code and its Python."""
    _run("mount", "--make-rprivate", "/")
    kept = [path for path in (ROOT, Path(sys.prefix)) if path.is_relative_to(hidden)]
    handles = [os.open(path, os.O_PATH) for path in kept]
    _run("mount", "-t", "tmpfs", "tmpfs", str(hidden))
    for path, handle in zip(kept, handles, strict=True):
        path.mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", f"/proc/self/fd/{handle}", str(path), pass_fds=(handle,))


def _run(*command: str, pass_fds: tuple[int, ...] = ()) -> None:
    subprocess.run(command, check=True, pass_fds=pass_fds)


def main(hidden: Path, options: Sequence[str]) -> None:
    """Be the node."""
    hide(hidden)
    own = hidden / "own"
    own.mkdir()
    os.chdir(own)
    os.execv(sys.executable, [*RAY, *options])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
