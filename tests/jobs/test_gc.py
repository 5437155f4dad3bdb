"""Garbage collection removes what no ledger names, and nothing else."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from jobs.gc import collect
from pipeline.audit.garbage import SCRATCH
from pipeline.audit.run import audit
from pipeline.errors import BadConfig, BadData
from pipeline.run.lease import Lease, LeaseHeld
from pipeline.run.ledger import Ledger
from pipeline.simulation.small_trees import put_small_tree
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store, open_store
from tests.support.chaos_world import RUN, Lives
from tests.support.jobs import mstar

ORPHANS = {
    "shards/rollout/question-0/" + "0" * 64 + ".parquet": b"never accepted",
    "images/" + "1" * 64: b"of no query",
    "probe/0123": b"left by a crash",
}

LEFT = [
    "images/" + "1" * 64,
    "policies/model/" + "2" * 64 + "/model.safetensors",
    "policies/model/" + "2" * 64 + ".manifest.json",
    "shards/rollout/question-0/" + "3" * 64 + ".parquet",
    "probe/0123",
]


@pytest.fixture
def objects(tmp_path: Path) -> dict[str, bytes]:
    lives = Lives(tmp_path)
    assert lives.live() is not None
    return dict(lives.memory.good)


def old_store(objects: dict[str, bytes], age_s: float = 1e6) -> tuple[Store, MemoryBackend]:
    """The objects, written `age_s` ago, in a store whose clock says now."""
    clock = [0.0]
    backend = MemoryBackend(clock=lambda: clock[0])
    store = Store(backend, say=lambda line: None)
    for path, data in objects.items():
        store.replace(path, data)
    clock[0] = age_s
    return store, backend


def test_only_what_nobody_names_goes(objects: dict[str, bytes]) -> None:
    tree = put_small_tree(old_store({})[0], "checkpoints", "state.json", {"half": "deleted"})
    stray = f"{tree}/state.json"
    store, _ = old_store(objects | ORPHANS | {stray: b"its manifest is gone"})
    listed = {entry.path for entry in collect(store, 3600, delete=False)}
    assert listed == {*ORPHANS, stray}
    assert set(store.list()) == {*objects, *ORPHANS, stray}
    collect(store, 3600, delete=True)
    left = {path for path in store.list() if "/lease/" not in path}
    assert left == {path for path in objects if "/lease/" not in path}
    assert audit(store, RUN).clean
    assert collect(store, 3600, delete=True) == []


def test_the_young_are_spared(objects: dict[str, bytes]) -> None:
    store, _ = old_store(objects | ORPHANS, age_s=3000)
    assert collect(store, 3600, delete=True) == []
    assert len(collect(store, 2000, delete=False)) == len(ORPHANS)


def test_what_a_killed_validation_left_goes_when_it_is_old(objects: dict[str, bytes]) -> None:
    left = {f"{SCRATCH}0a1b2c3d/{path}": b"anything" for path in LEFT}
    store, _ = old_store(objects | left, age_s=3000)
    assert collect(store, 3600, delete=True) == []
    assert {entry.path for entry in collect(store, 2000, delete=True)} == set(left)
    assert store.list(f"{SCRATCH}0a1b2c3d") == []
    assert audit(store, RUN).clean


def test_what_another_run_names_stays(objects: dict[str, bytes]) -> None:
    """Two runs in one store, the second has adopted shards of the first, whose ledger goes."""
    store, _ = old_store(objects)
    events = list(Ledger(store, RUN).replay())
    Ledger(store, "second").append(events[: len(events) // 2])
    for path in [path for path in store.list() if path.startswith(f"runs/{RUN}/")]:
        store.delete(path)
    collect(store, 0, delete=True)
    left = set(store.list())
    needed = {e["rollout"] for e in events[: len(events) // 2] if e["type"] == "shard_accepted"}
    assert needed <= left
    later = {e["rollout"] for e in events[len(events) // 2 :] if e["type"] == "shard_accepted"}
    assert not (later - needed) & left


def test_it_refuses_while_a_driver_lives(objects: dict[str, bytes], tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    for path, data in {**objects, **ORPHANS}.items():
        store.put(path, data)
    lease = Lease(store, RUN, say=lambda line: None)
    lease.acquire()
    # The driver renews its lease whenever the newcomer looks away, however slow this machine is.
    watched = partial(Lease, sleep=lambda seconds: lease.renew())
    with pytest.raises(LeaseHeld):
        collect(store, 0, delete=True, lease_of=watched)
    lease.release()
    assert set(ORPHANS) <= set(store.list())
    assert {entry.path for entry in collect(store, 0, delete=True)} == set(ORPHANS)


def test_it_refuses_over_a_damaged_ledger(objects: dict[str, bytes]) -> None:
    store, _ = old_store(objects | ORPHANS)
    store.replace(f"runs/{RUN}/ledger/0000000003.json", b"")
    with pytest.raises(BadData, match=r"0000000003\.json is empty.*mstar-ray audit"):
        collect(store, 0, delete=True)
    assert set(ORPHANS) <= set(store.list())


def test_it_refuses_a_place_without_runs() -> None:
    store, _ = old_store(ORPHANS)
    with pytest.raises(BadConfig, match="holds no run"):
        collect(store, 0, delete=True)


ODD = [
    "images/\x1b[2J\x1b[31mred",
    "policies/two\nlines",
    "probe/\u202egnp",
    os.fsdecode(b"shards/no-utf-8-\xff"),
    "validate-\x07bell/a\\b",
]


def test_links_are_not_followed_and_odd_names_neither_stop_it_nor_reach_the_terminal(
    objects: dict[str, bytes], tmp_path: Path
) -> None:
    folder, outside = tmp_path / "store", tmp_path / "outside"
    store = open_store(folder)
    for path, data in {**objects, **ORPHANS}.items():
        store.put(path, data)
    for path in [*ODD, "runs/\x1b[31m/ledger/0000000000.json", "runs/.DS_Store"]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"odd")
    outside.mkdir()
    (outside / "precious").write_bytes(b"of another project")
    (folder / "images" / "outside").symlink_to(outside)
    (folder / "probe").mkdir(exist_ok=True)
    (folder / "probe" / "loop").symlink_to(folder)
    (folder / "probe" / "file").symlink_to(outside / "precious")
    done = mstar("gc", store.url, "--min-age-h", "0", "--delete")
    assert done.exit_code == 0, done.output
    assert f"{len(ORPHANS) + len(ODD)} objects removed" in done.output
    assert all(line.isprintable() for line in done.output.splitlines())
    assert r"images/\x1b[2J\x1b[31mred" in done.output
    assert (outside / "precious").read_bytes() == b"of another project"
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not left & {*ODD, *ORPHANS}
    assert {path for path in objects if "/lease/" not in path} <= left
    assert mstar("audit", store.url).exit_code == 0


def test_the_command_lists_then_deletes(objects: dict[str, bytes], tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    for path, data in {**objects, **ORPHANS}.items():
        store.put(path, data)
    time.sleep(0.01)
    listed = mstar("gc", store.url, "--min-age-h", "0")
    assert listed.exit_code == 0
    assert "3 objects not needed" in listed.output
    done = mstar("gc", store.url, "--min-age-h", "0", "--delete")
    assert done.exit_code == 0
    assert "3 objects removed" in done.output
    assert not set(ORPHANS) & set(store.list())
    assert mstar("gc", tmp_path / "nothing").exit_code == 2
