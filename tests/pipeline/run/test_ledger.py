"""The ledger: every acknowledged append there once, in order, whatever dies; every damage named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadConfig, CorruptObject, StoreUnavailable
from pipeline.hashing import canonical_json
from pipeline.run.ledger import Ledger, LedgerClosed
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store, open_store
from tests.support.numbered_ledger import Event, event, numbers, written
from tests.support.scripted_store import ScriptedBackend


@pytest.fixture
def store() -> Store:
    return Store(MemoryBackend(), say=lambda line: None)


# --- what it looks like ---------------------------------------------------------------------------


def test_events_come_back_in_order_and_groups_are_entries(store: Store) -> None:
    ledger = written(store, [[0], [1, 2, 3], [4]])
    assert ledger.position == 2
    assert store.list("runs/run/ledger") == [f"runs/run/ledger/000000000{n}.json" for n in range(3)]
    again = Ledger(store, "run")
    assert [len(entry.events) for entry in again.entries()] == [1, 3, 1]
    assert numbers(again.replay()) == [0, 1, 2, 3, 4]
    assert again.append([event(5)]) == 3
    assert numbers(Ledger(store, "run").replay()) == [0, 1, 2, 3, 4, 5]


def test_an_entry_is_plain_json_that_says_what_it_follows(store: Store) -> None:
    ledger = written(store, [[0], [1]], nonce="driver-1")
    first, second = (json.loads(store.get(ledger.path(n))) for n in (0, 1))
    assert list(first) == ["checksum", "events", "format", "n", "nonce", "previous", "run"]
    assert first["previous"] == "0" * 64
    assert second["previous"] == next(ledger.entries()).sha256
    assert second["nonce"] == "driver-1"


def test_no_events_make_no_entry(store: Store) -> None:
    ledger = written(store, [[0]])
    assert ledger.append([]) == 0
    assert len(store.list()) == 1
    assert Ledger(store, "new").append([]) == -1


@pytest.mark.parametrize("bad", [{}, {"type": ""}, {"type": 7}, {"kind": "x"}])
def test_an_event_without_a_type_is_refused_and_nothing_written(store: Store, bad: Event) -> None:
    ledger = Ledger(store, "run")
    with pytest.raises(ValueError, match="type"):
        ledger.append([event(0), bad])
    assert store.list() == []
    assert ledger.append([event(0)]) == 0


def test_an_event_without_a_canonical_form_is_refused_and_nothing_written(store: Store) -> None:
    ledger = Ledger(store, "run")
    with pytest.raises(TypeError, match="nan"):
        ledger.append([event(0, loss=float("nan"))])
    assert store.list() == []
    assert ledger.append([event(0)]) == 0


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 101, "größe"])
def test_a_run_name_that_cannot_name_a_folder_is_refused(store: Store, name: str) -> None:
    with pytest.raises(BadConfig, match="run name"):
        Ledger(store, name)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=8,
)


@given(values=st.lists(json_values, min_size=1, max_size=4))
def test_any_json_comes_back_as_it_was(values: list[Any]) -> None:
    backend = MemoryBackend()
    Ledger(Store(backend), "run").append([event(0, value=value) for value in values])
    back = [item["value"] for item in Ledger(Store(backend), "run").replay()]
    assert canonical_json(back) == canonical_json(values)


# --- an append that did not come back, a reading that did not end ---------------------------------


def test_an_append_that_raised_closes_the_ledger(store: Store) -> None:
    backend = ScriptedBackend(store.backend, lambda o, *_: "lose_answer" if o == "create" else None)
    ledger = Ledger(Store(backend, patience_s=0.0, say=lambda _: None), "run")
    with pytest.raises(StoreUnavailable):
        ledger.append([event(0)])
    with pytest.raises(LedgerClosed, match="entry 0 did not end well"):
        ledger.append([event(0)])
    with pytest.raises(LedgerClosed):
        ledger.snapshot({})
    assert numbers(Ledger(store, "run").replay()) == [0], "it landed: a retry would have doubled it"


def test_a_ledger_read_half_way_takes_no_append(store: Store) -> None:
    written(store, [[0], [1]])
    ledger = Ledger(store, "run")
    events = ledger.replay()
    next(events)
    with pytest.raises(LedgerClosed, match="not read to its end"):
        ledger.append([event(2)])
    assert numbers(events) == [1]
    assert ledger.append([event(2)]) == 2


# --- damage ---------------------------------------------------------------------------------------


@given(entry=st.integers(0, 5), where=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_one_changed_byte_anywhere_is_found_and_named(
    entry: int, where: float, change: int
) -> None:
    store = Store(MemoryBackend())
    ledger = written(store, [[n] for n in range(6)])
    data = bytearray(store.get(ledger.path(entry)))
    data[int(where * len(data))] ^= change
    store.replace(ledger.path(entry), bytes(data))
    with pytest.raises(CorruptObject, match=f"ledger/000000000{entry}.json"):
        list(Ledger(store, "run").replay())
    with pytest.raises(CorruptObject, match=f"ledger/000000000{entry}.json"):
        list(Ledger(store, "run").resume()[1])


@pytest.mark.parametrize("entry", range(4))
@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "missing", "another's", "swapped"])
def test_every_damage_to_every_entry_is_named(store: Store, entry: int, damage: str) -> None:
    ledger = written(store, [[n] for n in range(4)])
    path = ledger.path(entry)
    data = store.get(path)
    if damage == "missing":
        store.delete(path)
    else:
        other = Ledger(store, "other", nonce="n")
        for number in range(4):
            other.append([event(number)])
        broken = {
            "empty": b"",
            "cut": data[:-9],
            "longer": data + b" ",
            "another's": store.get(other.path(entry)),
            "swapped": store.get(ledger.path((entry + 1) % 4)),
        }
        store.replace(path, broken[damage])
    with pytest.raises(CorruptObject, match=f"ledger/000000000{entry}.json"):
        list(Ledger(store, "run").replay(at_least=3))


def test_an_entry_replaced_by_a_well_formed_one_breaks_the_chain(store: Store) -> None:
    ledger = written(store, [[0], [1], [2]])
    shadow = Store(MemoryBackend())
    written(shadow, [[0], [7]])
    store.replace(ledger.path(1), shadow.get(ledger.path(1)))
    with pytest.raises(CorruptObject, match=r"0000000002\.json does not follow"):
        list(Ledger(store, "run").replay())


def test_a_missing_end_is_found_by_what_is_known_of_it(store: Store) -> None:
    ledger = written(store, [[0], [1], [2]])
    store.delete(ledger.path(2))
    assert numbers(Ledger(store, "run").replay()) == [0, 1], "nothing else remembers it"
    with pytest.raises(CorruptObject, match=r"0000000002\.json is missing"):
        list(Ledger(store, "run").replay(at_least=2))


def test_a_missing_end_is_found_by_a_snapshot(store: Store) -> None:
    ledger = written(store, [[0], [1], [2]])
    ledger.snapshot({"done": 3})
    store.delete(ledger.path(2))
    for read in (Ledger(store, "run").replay, lambda: Ledger(store, "run").resume()[1]):
        with pytest.raises(CorruptObject, match=r"0000000002\.json is missing"):
            list(read())


def test_other_files_in_the_folder_are_not_entries(store: Store) -> None:
    written(store, [[0], [1]])
    store.put("runs/run/ledger/.rclone_temp_put_1", b"half")
    assert numbers(Ledger(store, "run").replay()) == [0, 1]


# --- snapshots ------------------------------------------------------------------------------------


def folded(ledger: Ledger) -> list[int]:
    state, events = ledger.resume()
    return [*([] if state is None else state["seen"]), *numbers(events)]


@given(
    groups=st.integers(1, 8),
    at=st.sets(st.integers(0, 7)),
    damaged=st.sets(st.integers(0, 7)),
    how=st.sampled_from([b"", b"{}", b"cut"]),
)
def test_resuming_is_replaying_whatever_happened_to_the_snapshots(
    groups: int, at: set[int], damaged: set[int], how: bytes
) -> None:
    store = Store(MemoryBackend(), say=lambda line: None)
    said: list[str] = []
    ledger = Ledger(store, "run")
    for number in range(groups):
        ledger.append([event(number)])
        if number in at:
            path = ledger.snapshot({"seen": list(range(number + 1))})
            if number in damaged:
                store.replace(path, how if how != b"cut" else store.get(path)[:-3])
    again = Ledger(store, "run", say=said.append)
    assert folded(again) == list(range(groups))
    assert again.append([event(groups)]) == groups
    newest = max((number for number in at if number < groups), default=None)
    assert bool(said) == (newest in damaged and newest is not None)


def test_a_snapshot_spares_reading_what_is_before_it(store: Store) -> None:
    ledger = written(store, [[n] for n in range(50)])
    ledger.snapshot({"seen": list(range(50))})
    ledger.append([event(50)])
    backend = ScriptedBackend(store.backend)
    assert folded(Ledger(Store(backend), "run")) == list(range(51))
    assert len([path for call, path in backend.calls if call == "read"]) <= 4


def test_a_damaged_snapshot_is_quarantined_and_written_anew(store: Store) -> None:
    ledger = written(store, [[0]])
    path = ledger.snapshot({"seen": [0]})
    good = store.get(path)
    store.replace(path, good.replace(b"0", b"1", 1))
    said: list[str] = []
    again = Ledger(store, "run", say=said.append)
    assert folded(again) == [0]
    assert path in said[0]
    assert again.snapshot({"seen": [0]}) == path
    assert store.get(path) == good, "a snapshot is a function of the ledger alone"


def test_a_snapshot_of_another_history_is_passed_over(store: Store) -> None:
    ledger = written(store, [[0], [1]])
    shadow = Store(MemoryBackend())
    stranger = written(shadow, [[5], [6]])
    store.put(ledger.snapshot_path(1), shadow.get(stranger.snapshot({"seen": [5, 6]})))
    assert folded(Ledger(store, "run", say=lambda line: None)) == [0, 1]


def test_a_damaged_entry_before_the_snapshot_stops_an_audit_but_not_the_run(store: Store) -> None:
    ledger = written(store, [[0], [1], [2]])
    ledger.snapshot({"seen": [0, 1, 2]})
    store.replace(ledger.path(0), b"")
    assert folded(Ledger(store, "run")) == [0, 1, 2]
    with pytest.raises(CorruptObject, match=r"0000000000\.json is empty"):
        list(Ledger(store, "run").replay())


# --- on disk --------------------------------------------------------------------------------------


def test_on_disk_too(tmp_path: Path) -> None:
    written(open_store(tmp_path), [[0], [1, 2]]).snapshot({"seen": [0, 1, 2]})
    second = Ledger(open_store(tmp_path), "run")
    assert folded(second) == [0, 1, 2]
    assert second.append([event(3)]) == 2
    assert numbers(Ledger(open_store(tmp_path), "run").replay()) == [0, 1, 2, 3]
