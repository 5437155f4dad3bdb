"""A node's own view of the file system: folders that it does not share, and what it keeps of them.

A node is a process in a mount namespace and a process namespace of its own. It sees an empty folder
of its own in the place of each hidden one (`/tmp`, a checkout, an `out`), all processes of the node
end with its first one, and nothing of this is seen outside. Linux only; asks for root or for user
namespaces.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError

MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18


def own_view(*command: str) -> list[str]:
    """A command line that runs `command` as the first process of namespaces of its own; all of them
    end with it, and it ends with whoever waits for it."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return [
        "unshare", *as_root, "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", *command,
    ]  # fmt: skip


def check_namespaces() -> None:
    """Try one out.

    Raises:
        UserError: this machine does not permit them, with the system's own words.
    """
    if shutil.which("unshare") is None:
        raise UserError("a local cluster needs `unshare` (package util-linux), which is not there")
    tried = subprocess.run(own_view("true"), capture_output=True, text=True, check=False)
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]
        raise UserError(
            f"a local cluster needs mount and process namespaces, and this machine does not permit "
            f"them ({reason}): run it as root, in a container with CAP_SYS_ADMIN, or where "
            "unprivileged user namespaces are allowed"
        )


def hide(hidden: Sequence[Path], kept: Sequence[Path], own: Path) -> None:
    """Put an empty folder below `own` in the place of each hidden one, but leave what is kept.

    Only in a mount namespace of this process's own.

    Raises:
        OSError: a mount was refused.
    """
    _mount("none", "/", MS_REC | MS_PRIVATE)
    opened = {path: os.open(path, os.O_PATH) for path in kept if _below(path, hidden)}
    for place, folder in enumerate(hidden):
        empty = own / f"hidden-{place}"
        empty.mkdir(parents=True, exist_ok=True)
        # By its handle: an earlier one may hide where these folders are.
        opened[folder] = os.open(empty, os.O_PATH)
    for folder in hidden:
        _bind(opened.pop(folder), folder)
    for path, handle in opened.items():
        if Path(f"/proc/self/fd/{handle}").is_dir():
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        _bind(handle, path)


def _below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _bind(handle: int, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True) if not target.exists() else None
    _mount(f"/proc/self/fd/{handle}", str(target), MS_BIND | MS_REC)
    os.close(handle)


def _mount(source: str, target: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}", target)
