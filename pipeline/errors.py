"""The errors this project raises on purpose.

A `UserError` is something the person who typed the command can mend: its message names the file,
row or key and says what to do, a job prints it without a traceback and exits with 2. A
`StoreError` is about the object store.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

FailureKind = Literal["infrastructure", "lost", "refused", "user"]
"""Why a worker gave a piece of work up: the fleet or store is down, an object that it reads is
corrupt or gone, the store says no, or a person has to mend something."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)

_FILE = re.compile(r".*\.(jsonl?|parquet|csv|tsv|arrow)")


class UserError(Exception):
    """Something the person who started the job can mend; the message says how."""


class BadData(UserError):
    """A data file, a row or an image that cannot be used."""


class BadRow(NamedTuple):
    """One row of a data file that cannot be used. row: its line, or its number from 1 (parquet)."""

    file: str
    row: int
    reasons: tuple[str, ...]


class BadRows(BadData):
    """Rows that cannot be used. rows: all of them. unlisted: how many the message does not list."""

    def __init__(self, message: str, rows: tuple[BadRow, ...] = (), unlisted: int = 0) -> None:
        super().__init__(message)
        self.rows = rows
        self.unlisted = unlisted


class BadConfig(UserError):
    """An unknown key, an impossible value or an impossible combination of values."""


class BadModel(UserError):
    """A model folder that is incomplete or whose parts do not fit together."""


class DiskFull(UserError):
    """A disk has no room left; `pipeline.storage.disk` recognises it."""


class StoreError(Exception):
    """The object store did not do what was asked."""


class StoreMissing(StoreError, KeyError):
    """No object at that path."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # a KeyError's text comes in quotes


class StoreRefused(StoreError):
    """The store said no (credentials, permissions, a full disk): retrying is no use."""


class StoreUnavailable(StoreError):
    """The store did not answer: worth waiting for."""


class CorruptObject(StoreError):
    """An object whose bytes do not match the hash in its name."""


class ArtifactLost(StoreError):
    """An object that a piece of work has to read is corrupt (and in quarantine) or gone.

    `path` names it, `reason` says what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class TrainingDiverged(UserError):
    """A gradient that is not a finite number: weights and moments are spent."""


class RunStopped(UserError):
    """The run cannot go on; the message says why and what can be done."""


class LedgerNewer(UserError):
    """A ledger that a newer version of this program wrote: nothing of it is changed."""


LFS_POINTER = b"version https://git-lfs"
"""What a file begins with that a clone without Git LFS holds in place of a large one."""

LFS_HINT = "is a Git LFS pointer and not the file itself: run `git lfs pull` there"


_HUB_ADDRESS = re.compile(r"(?:hf:|https?:/+(?:www\.)?huggingface\.co)/+(?:datasets/+)?")


def download_hint(path: str, kind: Literal["model", "dataset"], key: str) -> str:
    """How to get what a path that does not exist may mean on the Hugging Face Hub; empty where it
    is written like no id of it. key: the setting that then names the folder."""
    path = _HUB_ADDRESS.sub("", path)
    if _HUB_ID.fullmatch(path) is None or _FILE.fullmatch(path):
        return ""
    folder = f"{kind}s/{path.rpartition('/')[2]}"
    what = "" if kind == "model" else "--repo-type dataset "
    return (
        f". Nothing is downloaded by a run: if {path} is a {kind} of the Hugging Face Hub, get it "
        f"with `hf download {what}{path} --local-dir {folder}`, then set {key}={folder}"
    )
