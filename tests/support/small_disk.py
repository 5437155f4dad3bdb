"""A file system of half a megabyte, for what a full disk does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def on_a_small_disk(program: str, folder: Path) -> tuple[Path, list[str]]:
    """What a program prints whose first argument is such a disk; and where that is mounted.

    Skips the test where no user may mount one.
    """
    script, disk = folder / "script.py", folder / "disk"
    script.write_text(textwrap.dedent(program))
    disk.mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o size=512k none "$0"'
    try:
        subprocess.run([*alone, mount, disk], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("this machine lets no user mount a small file system")
    done = subprocess.run(
        [*alone, f'{mount} && exec "$1" "$2" "$0"', disk, sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return disk, done.stdout.splitlines()
