"""The store's patience, its checks and its folders: what needs no server."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadConfig, CorruptObject, StoreMissing, StoreUnavailable
from pipeline.storage.artifacts import get_verified, put_content
from pipeline.storage.backend import Entry, MemoryBackend
from pipeline.storage.store import Store, open_store
from tests.support.scripted_store import Crash, Fault, ScriptedBackend, patient

# --- patience -----------------------------------------------------------------------------------


def test_an_unavailable_store_is_asked_again_with_growing_pauses_and_each_is_said() -> None:
    answers = iter([True] * 4)
    backend = ScriptedBackend(
        MemoryBackend(), lambda *_: "lose_request" if next(answers, False) else None
    )
    pauses: list[float] = []
    said: list[str] = []
    store = Store(backend, patience_s=100.0, sleep=pauses.append, say=said.append)
    store.replace("x", b"1")
    assert backend.calls == [("write", "x")]
    assert len(pauses) == len(said) == 4
    assert all(0.1 * 2**n <= pause <= 0.2 * 2**n for n, pause in enumerate(pauses))
    assert "does not answer" in said[0]
    assert "up to 100 s" in said[0]


def test_patience_ends_and_says_what_was_wrong() -> None:
    backend = ScriptedBackend(MemoryBackend(), lambda *_: "lose_request")
    pauses: list[float] = []
    store = Store(backend, patience_s=30.0, sleep=pauses.append, say=lambda line: None)
    with pytest.raises(StoreUnavailable, match="the request was lost"):
        store.get("x")
    assert 30.0 <= sum(pauses) <= 40.0
    assert max(pauses) <= 10.0


def test_a_store_that_refuses_is_asked_once() -> None:
    backend = ScriptedBackend(MemoryBackend())
    with pytest.raises(StoreMissing):
        patient(backend).get("x")
    assert backend.attempts == 1


def test_retrying_leaves_the_process_random_stream_alone() -> None:
    import random

    random.seed(7)
    expected = random.random()
    random.seed(7)
    faults = iter(["lose_request"] * 5)
    store = patient(ScriptedBackend(MemoryBackend(), lambda *_: next(faults, None)))  # type: ignore[arg-type]
    store.put("x", b"1")
    assert random.random() == expected


# --- luck: every fault at every call --------------------------------------------------------------

FAULTS: list[Fault | None] = [None, "lose_request", "lose_answer"]


@given(faults=st.lists(st.sampled_from(FAULTS), max_size=12), exclusive=st.booleans())
def test_a_create_whose_answer_is_lost_is_still_won(
    faults: list[Fault | None], exclusive: bool
) -> None:
    script = iter(faults)
    backend = ScriptedBackend(MemoryBackend(), lambda *_: next(script, None))
    backend.exclusive = exclusive
    store = patient(backend)
    assert store.create("entry", b"mine")
    assert not store.create("entry", b"theirs")
    assert store.get("entry") == b"mine"


@given(
    before=st.sampled_from([None, b"", b"rows", b"r0ws", b"longer rows"]),
    crash=st.integers(0, 8),
    after=st.booleans(),
)
def test_put_content_survives_a_crash_at_any_call(
    before: bytes | None, crash: int, after: bool
) -> None:
    inner = MemoryBackend()
    path = put_content(Store(MemoryBackend()), "s", "k", b"rows", "bin")
    if before is not None:
        inner.write(path, before)
    fault: Fault = "crash_after" if after else "crash_before"
    backend = ScriptedBackend(inner, lambda _o, _p, number: fault if number == crash else None)
    try:
        put_content(patient(backend), "s", "k", b"rows", "bin")
        done = True
    except Crash:
        done = False
    again = patient(inner)
    if done:
        assert get_verified(again, path) == b"rows"
    assert put_content(again, "s", "k", b"rows", "bin") == path
    assert get_verified(again, path) == b"rows"
    lost = {None, b"rows"} | {again.get(kept) for kept in again.list("quarantine")}
    assert before in lost, "damaged bytes are kept for a person to look at"


class RepairedMeanwhile(MemoryBackend):
    """Another worker mends the object between a reader's first look and its second."""

    def __init__(self, path: str, good: bytes, look: int) -> None:
        super().__init__()
        self.looks, self.path, self.good, self.look = 0, path, good, look

    def _mend(self) -> None:
        self.looks += 1
        if self.looks == self.look:
            self.write(self.path, self.good)

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        data = super().read(path, start, end)
        self._mend()
        return data

    def move(self, source: str, target: str) -> None:
        self._mend()
        super().move(source, target)


@pytest.mark.parametrize("look", [1, 2, 3])
def test_what_another_worker_mended_meanwhile_is_not_quarantined(look: int) -> None:
    path = put_content(Store(MemoryBackend()), "s", "k", b"rows", "bin")
    backend = RepairedMeanwhile(path, b"rows", look)
    backend.write(path, b"r0ws")
    store = patient(backend)
    assert get_verified(store, path) == b"rows"
    assert store.list() == [path]


def test_two_readers_that_find_the_same_damage_both_name_it() -> None:
    backend = MemoryBackend()
    store = patient(backend)
    path = put_content(store, "s", "k", b"rows", "bin")
    store.replace(path, b"r0ws")
    seen: list[str] = []

    def read() -> None:
        try:
            get_verified(store, path)
        except (CorruptObject, StoreMissing) as error:
            seen.append(type(error).__name__)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 2
    assert "CorruptObject" in seen
    assert len(store.list("quarantine")) == 1


# --- URLs ---------------------------------------------------------------------------------------


def test_memory_stores_are_shared_by_name() -> None:
    open_store("memory://shared-by-name").put("x", b"1")
    assert open_store("memory://shared-by-name").get("x") == b"1"
    assert not open_store("memory://").exists("x")


@pytest.mark.parametrize(
    "url",
    ["gs://bucket/x", "s3://", "s3://AKIA1234:wJalrXUt@bucket/x", "s3://Bucket", "s3://a/x"],
)
def test_a_wrong_url_is_refused_without_repeating_a_secret(url: str) -> None:
    with pytest.raises(BadConfig) as caught:
        open_store(url)
    assert "wJalrXUt" not in str(caught.value)
    assert "s3://bucket/prefix" in str(caught.value) or "gs://" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("s3:/bucket/x", "s3:bucket/x", "s3//bucket/x", "S3:/b", " s3:/b", "s3;//b", "s3:"),
        *("file:/x", "memory:x", "memory:/x", "gs:/b", "https:/host/b", "s3:/AKIASECRET:KEY@b"),
    ],
)
def test_what_is_almost_a_url_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadConfig, match=r"a slash .* is missing") as caught:
        open_store(url)
    assert "SECRET" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_hold_a_colon(tmp_path: Path) -> None:
    for name in ("s3x:y", "out/s3:x", "c:x"):
        assert open_store(tmp_path / name).url == str(tmp_path / name)
    assert open_store("./s3:x").url.endswith("s3:x")


def test_a_store_travels_to_another_process_as_its_url(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", 12.0)
    store.put("x", b"1")
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert copy.get("x") == b"1"
    assert copy.patience_s == 12.0
    with pytest.raises(TypeError, match="one process"):
        pickle.dumps(open_store("memory://"))


def test_entries_carry_the_stores_clock() -> None:
    store = Store(MemoryBackend(clock=lambda: 17.0))
    store.put("x", b"12")
    assert store.entries() == [Entry("x", 2, 17.0)]
