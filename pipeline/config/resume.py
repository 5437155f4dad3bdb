"""What a run may be resumed with: which settings changed, and what each change means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic.fields import FieldInfo

from pipeline.config.fields import BEFORE, extra_of, fields, hashed_name, leaf_of, to_dict
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.hashing import canonical_json, sha256_hex

ResumeKind = Literal["meaning", "noted", "free"]


@dataclass(frozen=True)
class Change:
    """One key that differs between two configurations, and what that means for a resume."""

    key: str
    old: Any
    new: Any
    kind: ResumeKind
    note: str = ""

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.key}: {self.old!r} -> {self.new!r}{note}"


def config_hash(config: Config) -> str:
    """16 hex digits over everything that is not free: equal hashes, equal runs but for machines.

    A setting that came later (`ADDED`, `BEFORE`) counts where it is not as it was without it.
    """
    plain = to_dict(config)
    keyed = {
        hashed_name(key): leaf_of(plain, key)
        for key, info in fields()
        if extra_of(info).get("resume") != "free" and not _as_before(plain, key, info)
    }
    return sha256_hex(canonical_json(keyed))[:16]


def _as_before(plain: dict[str, Any], key: str, info: FieldInfo) -> bool:
    if key in BEFORE:
        return bool(leaf_of(plain, key) == BEFORE[key])
    default = info.get_default(call_default_factory=True)
    return bool(extra_of(info).get("added")) and leaf_of(plain, key) == _plain(default)


def _plain(value: Any) -> Any:
    """A default as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def diff(old: Config, new: Config) -> list[Change]:
    """Every key that differs, in the order of the manual."""
    plain_old, plain_new = to_dict(old), to_dict(new)
    changes = []
    for key, info in fields():
        before, after = leaf_of(plain_old, key), leaf_of(plain_new, key)
        if before != after:
            extra = extra_of(info)
            kind = extra.get("resume", "meaning")
            changes.append(Change(key, before, after, kind, str(extra.get("note", ""))))
    return changes


def check_resume(old: Config, new: Config) -> list[Change]:
    """The changes to say aloud when a run goes on under another configuration.

    Raises:
        BadConfig: a change would make it another run.
    """
    changes = diff(old, new)
    refused = [change for change in changes if change.kind == "meaning"]
    if refused:
        shown = "\n  ".join(str(change) for change in refused)
        raise BadConfig(
            f"run {new.run.name!r} was started with other settings:\n  {shown}\n"
            "set them back, or give the new run a name of its own (--set run.name=...)"
        )
    return [change for change in changes if change.kind == "noted"]
