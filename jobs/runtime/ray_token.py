"""The token that a private Ray asks of whoever connects to it.

Ray makes one by itself, in a file that other users may read (its mode is the umask's). So it is
made here before, readable by this user only.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError

# Whoever sets one of these has a token elsewhere, or wants none.
CHOSEN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def token_file() -> Path:
    """Where Ray looks for it."""
    return Path.home() / ".ray" / "auth_token"


def make_token(say: Callable[[str], None]) -> None:
    """Make the file if there is none; a word where others can read the one that is there.

    Raises:
        UserError: it cannot be written.
    """
    if any(os.environ.get(name) for name in CHOSEN):
        return
    file = token_file()
    try:
        if not file.exists():
            _create(file)
        elif file.stat().st_mode & 0o077:
            say(f"{file}, the token of this user's Ray, can be read by others: chmod 600 {file}")
    except OSError as error:
        raise UserError(
            f"Ray's token cannot be kept in {file} ({error.strerror}): make that folder writable, "
            "or set HOME to one that is"
        ) from error


def _create(file: Path) -> None:
    """Whole and with its mode from the first moment: another process may be reading it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, fresh = tempfile.mkstemp(dir=file.parent)  # of mode 600
    try:
        with os.fdopen(handle, "w") as opened:
            opened.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another process was faster
            os.link(fresh, file)
    finally:
        os.unlink(fresh)
