"""Identity: one canonical byte form for a value, and the hash of it.

Two equal values give equal bytes on every machine. A value with no deterministic form raises,
because a permissive fallback would silently fork every key that depends on it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}: {value!r} has no canonical form")
        return value
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str)]
        if bad:
            raise TypeError(f"{where}: key {bad[0]!r} is not a string")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where}: {type(value).__name__} has no canonical form")


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces.

    Raises:
        TypeError: for sets, non-finite floats, non-string keys and every other type that has no
            deterministic form; the message names the place.
    """
    plain = _plain(value, "value")
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def sha256_hex(data: bytes) -> str:
    """Hex sha256 (64 digits) of `data`."""
    return hashlib.sha256(data).hexdigest()


def key_of(prefix: str, value: Any) -> str:
    """A readable prefix and the first 16 hex digits of the hash of `value`'s canonical JSON."""
    return f"{prefix}-{sha256_hex(canonical_json(value))[:16]}"
