"""Ledgers whose events are numbers, so that what is missing or doubled shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.run.ledger import Ledger
from pipeline.storage.store import Store

Event = dict[str, Any]


def event(number: int, **more: Any) -> Event:
    return {"type": "shard_accepted", "number": number, **more}


def written(store: Store, groups: list[list[int]], nonce: str = "n") -> Ledger:
    ledger = Ledger(store, "run", nonce=nonce)
    for group in groups:
        ledger.append([event(number) for number in group])
    return ledger


def numbers(events: Iterator[Event]) -> list[int]:
    return [item["number"] for item in events]
