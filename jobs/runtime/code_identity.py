"""Which code runs: where its modules come from, a hash of them, and the commit where it is known.

A submitted job runs Ray's unpacked copy of a checkout, without `.git`. So what identifies code
everywhere is a hash of its files; `mstar-ray --version` prints it for any checkout or
installation, and equal hashes are equal code. The commit comes from git, or from the job's metadata
(`ray job submit --metadata-json '{"commit": "…"}'`).
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from jobs.runtime.cluster_job import is_submitted, job_metadata

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("actors", "cluster", "jobs", "pipeline")

Say = Callable[[str], None]


def code_hash(root: Path = ROOT) -> str:
    """The sha256, 16 hex digits, of every Python file and recipe of this project below `root`."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        files = (root / package).rglob("*")
        for file in sorted(one for one in files if one.suffix in (".py", ".yaml")):
            name = file.relative_to(root).as_posix().encode()
            digest.update(name + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def code_place() -> tuple[str, str]:
    """Where the modules of the process that calls this come from, and their hash."""
    return str(ROOT), code_hash()


def commit(root: Path = ROOT) -> str | None:
    """The last commit that changed the code of the working tree, marked when the code has changed
    since; of a submitted job what its metadata say. (Commits of results or docs change no code.)"""
    if not (root / ".git").exists():
        named = job_metadata().get("commit")
        return str(named) if named else None
    try:
        last = _git(root, "log", "-1", "--format=%H", "--", *PACKAGES)
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *PACKAGES)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{last}-dirty" if changed else last


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def say_code(say: Say) -> None:
    """Name the code that runs, and warn where it is not what was submitted."""
    named = commit() or 'commit unknown (give --metadata-json \'{"commit": "…"}\')'
    say(f"code: {named}, files {code_hash()}, modules from {ROOT}")
    here = Path.cwd().resolve()
    if is_submitted() and here != ROOT and (here / "jobs" / "run.py").is_file():
        say(
            f"warning: modules come from {ROOT}, not from what was submitted ({here}): an "
            " installed mstar-ray was found first. Submit with `-- python -m jobs.run …`"
        )
