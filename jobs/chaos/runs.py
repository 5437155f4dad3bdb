"""Runs of one recipe on one S3 server, each in an empty store of its own, with or without kills."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.s3 import LocalS3
from cluster.s3_proxy import S3Proxy, look_on
from jobs.chaos.plan import ENDS_A_LIFE, STORE_AWAY_S, Kill
from jobs.chaos.victims import Family, kill
from jobs.chaos.watch import Watch
from jobs.runtime.recipes import load_recipe
from pipeline.audit.diff import first_difference
from pipeline.errors import UserError
from pipeline.records import Selected
from pipeline.run.ledger import Ledger
from pipeline.storage.artifacts import put_content
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store, open_store

ROOT = Path(__file__).resolve().parents[2]

LIFE_S = 3600.0
"""No single life of a run may take longer."""


class ChaosFailed(UserError):
    """A run ended, or did not end, for no reason that was planned."""


def meaning(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What must be equal to the last bit: the rows selected, the weights and the moments; of the
    process reward model also what it learned from, itself as it is used, and its scores."""
    of: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        of.setdefault(event["type"], []).append(event)
    done, scored = of.get("job_done", []), of.get("shard_scored", [])
    return {
        "selected": {
            _shard(event): event["selected"]
            for event in [*of.get("shard_graded", []), *scored]
            if event["selected"]
        },
        "weights": {event["job"]: event["policy"]["path"] for event in done},
        # its hash is of a folder with master weights, moments, schedule, RNG and cursor
        "moments": {event["job"]: event["checkpoint"]["sha256"] for event in done},
        "labels": [event["path"] for event in of.get("labels_made", [])],
        "prm": [event["path"] for event in of.get("prm_judged", [])],
        "scores": {f"{event['stage']} {_shard(event)}": event["scores"] for event in scored},
    }


def beside(reference: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether a run did what another did, where they part, and how many shards it accepted."""
    parted = first_difference(reference, other)
    return {
        "identical": meaning(other) == meaning(reference) and parted is None,
        "difference": None if parted is None else str(parted),
        "accepted_shards": sum(event["type"] == "shard_accepted" for event in other),
    }


def _shard(event: dict[str, Any]) -> str:
    return f"{event['purpose']} {event['index']}"


class Bed:
    """Where the runs lie: `folder`/<name> for what people read, s3://bucket/<name> for objects."""

    def __init__(
        self,
        folder: Path,
        server: LocalS3,
        proxy: S3Proxy,
        *,
        config: str,
        changes: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.server = server
        self.proxy = proxy
        self._config = config
        self._changes = list(changes)
        self._say = say
        self._family: Family | None = None
        self.run = load_recipe(config, self._changes).run.name

    def url(self, name: str) -> str:
        return f"s3://{self.server.bucket}/{name}"

    def store(self, name: str) -> Store:
        return open_store(self.url(name), say=self._say)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Every event of a run."""
        return list(Ledger(self.store(name), self.run).replay())

    def log(self, name: str) -> str:
        """What a run's lives have said."""
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")

    def _start(self, name: str, extra: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobs.run", "--config", self._config]
        places = [f"run.out={self.folder / name}", f"store.url={self.url(name)}"]
        for change in [*self._changes, *places, "run.console=plain", *extra]:
            command += ["--set", change]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _live(self, name: str, extra: Sequence[str] = ()) -> tuple[int, list[str]]:
        """One life of a run: its exit status, and who survived it."""
        process = self._start(name, extra)
        family = self._family = Family(process.pid)
        try:
            status = process.wait(LIFE_S)
        except subprocess.TimeoutExpired:
            raise ChaosFailed(
                f"{name} is not over after {LIFE_S:.0f} s; {self._tail(name)}"
            ) from None
        finally:
            process.kill()
            process.wait()
            left = family.left()
        return status, left

    def _tail(self, name: str) -> str:
        return f"the end of its log:\n{self.log(name)[-2000:]}"

    def _empty(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / f"{name}.log").unlink(missing_ok=True)

    def undisturbed(self, name: str, *extra: str) -> None:
        """A run in one life."""
        self._empty(name)
        self.proxy.hook = look_on
        status, _ = self._live(name, extra)
        if status != 0:
            raise ChaosFailed(f"{name} ended with {status}; {self._tail(name)}")

    # --- with kills -----------------------------------------------------------------------------

    def killed(self, name: str, kills: Sequence[Kill], seed: int) -> tuple[Watch, list[str], int]:
        """A run in as many lives as it takes; what survived any of them, and the restarts."""
        self._empty(name)
        watch = Watch(kills, f"{self.server.bucket}/{name}", self._strike, seed=seed)
        self.proxy.hook = watch
        left: list[str] = []
        lives = 0
        while True:
            before = len(watch.records)
            watch.new_life()
            status, survived = self._live(name)
            lives += 1
            left += survived
            if status == 0:
                self.proxy.hook = look_on
                return watch, left, lives - 1
            last = watch.records[-1] if len(watch.records) > before else None
            if last is None or last.victim not in ENDS_A_LIFE:
                struck = "nobody was" if last is None else f"only {last.victim} was"
                raise ChaosFailed(
                    f"{name} ended with {status} though {struck} killed; {self._tail(name)}"
                )
            self._say(f"{last.stage}: {last.window or last.victim} ({status}); started again")

    def _strike(self, one: Kill) -> int | None:
        family = self._family
        if family is None:
            return None
        if one.victim == "driver":
            return family.job if kill(family.job) else None
        if one.victim == "store":
            pid = self.server.pid
            self.server.stop(kill=True)
            time.sleep(STORE_AWAY_S)
            self.server.start()
            return pid
        # whoever sends half an object is at work, though it waits for the answer
        busy = family.any(one.victim) if one.window else family.at_work(one.victim)
        return busy if busy is not None and kill(busy) else None

    # --- the control ----------------------------------------------------------------------------

    def without_a_shard(self, source: str, target: str) -> None:
        """A copy of a run up to the first iteration's training, with one shard's selection gone."""
        self._empty(target)
        bucket = self.server.folder / "objects" / self.server.bucket
        shutil.rmtree(bucket / target, ignore_errors=True)
        shutil.copytree(bucket / source, bucket / target)
        shutil.rmtree(bucket / target / "runs")
        store = open_store(bucket / target)
        nothing = put_content(store, "select", "dropped", to_parquet([], Selected), "parquet")
        Ledger(store, self.run).append(without_a_selection(self.events(source), nothing))


def without_a_selection(
    events: Sequence[dict[str, Any]], nothing: str, purpose: str = "evolve/0"
) -> list[dict[str, Any]]:
    """The events up to the end of a purpose's sampling; the first shard of it that something was
    kept of, by its grades or by its scores, gave `nothing` (the path of an empty selection).

    Raises:
        ChaosFailed: nothing was kept of any.
    """
    told: list[dict[str, Any]] = []
    dropped = False
    for event in events:
        mine = event.get("purpose") == purpose
        chooses = mine and event["type"] in ("shard_graded", "shard_scored") and event["selected"]
        if chooses and not dropped and event["coverage"]["kept"] > 0:
            dropped = True
            counts = event["coverage"] | {"kept": 0}
            event = event | {"selected": nothing, "coverage": counts}  # noqa: PLW2901
        told.append(event)
        if mine and event["type"] == "sampling_closed":
            break
    if not dropped:
        raise ChaosFailed("the first iteration selected nothing: there is nothing to drop")
    return told
