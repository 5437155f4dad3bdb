"""The learner under Ray Train: bits, errors and processes of a real worker group."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.supervision.failures import Failure, WorkFailed
from actors.training.group import LearnerGroup
from actors.training.hub import Hub
from actors.training.source import Means, Source
from jobs.runtime.ray_cluster import init_ray
from pipeline.storage.models import publish_folder
from pipeline.storage.store import open_store
from pipeline.storage.trees import check_tree
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings
from tests.support.learning import IMAGES, SETTINGS, make_rows, tiny_policy
from tests.support.processes import processes
from tests.support.waiting import until

# Starting ranks takes half a minute on two idle cores, and much longer on busy ones.
pytestmark = pytest.mark.timeout(1200)

RANK, GROUP = "ray::RayTrainWorker", ("RayTrainWorker", "TrainController", "Hub", "Synchronization")


@pytest.fixture(scope="module")
def policy() -> Path:
    return tiny_policy()


@pytest.fixture(scope="module")
def rows(policy: Path) -> list[TrainRow]:
    return make_rows(policy, 18)


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    init_ray(
        {
            "num_cpus": 2,
            "include_dashboard": False,
            "log_to_driver": False,
            "object_store_memory": 100 << 20,
        }
    )
    yield
    ray.shutdown()


def settings(**changes: Any) -> LearnSettings:
    return SETTINGS.model_copy(update={"cpus_per_rank": 0.5, **changes})


class Shelf:
    """A store, and the means of ranks that know nothing but it."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(folder / "store")
        self.means = Means(self.store, IMAGES.__getitem__, str(folder / "node"))

    def start(self, policy: Path, **changes: Any) -> LearnerGroup:
        source = Source(publish_folder(self.store, policy).path)
        return LearnerGroup.start(settings(**changes), source, self.means)

    def checkpoint(self, group: LearnerGroup, cursor: dict[str, Any]) -> str:
        """One that is complete."""
        made = group.checkpoint(cursor)
        group.settle()
        until(lambda: group.stored(made))  # a rank's word of it may come after its upload
        made.complete(self.store)
        return made.path


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def assert_gone() -> None:
    """The ranks are gone when `close` returns; what Ray held around them follows."""
    assert processes(RANK) == []
    deadline = time.monotonic() + 60
    while processes(*GROUP):
        assert time.monotonic() < deadline, processes(*GROUP)
        time.sleep(0.2)


@pytest.mark.usefixtures("_cluster")
def test_a_group_trains_goes_back_and_names_what_it_refuses(
    policy: Path, rows: list[TrainRow], shelf: Shelf
) -> None:
    group = shelf.start(policy, ranks=2)
    source = Source(publish_folder(shelf.store, policy).path)
    assert len(processes(RANK)) == 2
    said: list[str] = []
    first = group.train(rows, 0, progress=said.append)
    assert (first.steps, first.step, first.rows) == (3, 3, 18)
    assert first.tokens == sum(len(row.token_ids_T) for row in rows)
    begun = shelf.checkpoint(group, {"interval": 0})
    # The second interval, once in one go and once from the checkpoint in two stretches.
    once = group.train(rows, 1)
    wanted = shelf.checkpoint(group, {})
    published = group.publish()
    logprobs = group.logprobs(rows[:3], 0.7)
    assert [len(values) for values in logprobs] == [len(row.token_ids_T) for row in rows[:3]]

    back = dataclasses.replace(source, checkpoint=begun)
    assert group.reset(back, group.settings) == {"step": 3, "cursor": {"interval": 0}}
    twice = [group.train(rows, 1, first=0, last=1), group.train(rows, 1, first=1)]
    assert shelf.checkpoint(group, {}) == wanted
    assert check_tree(shelf.store, wanted) == []
    assert twice[0].loss_S + twice[1].loss_S == once.loss_S

    # A new optimizer on the published policy: the same answers, another course.
    assert group.reset(Source(published), group.settings)["step"] == 0
    assert group.logprobs(rows[:3], 0.7) == logprobs

    odd = [dataclasses.replace(rows[0], prompt_sha256="0" * 64), *rows[1:]]
    with pytest.raises(WorkFailed, match="another processor") as refused:
        group.train(odd, 2)
    assert refused.value.failure.kind == "user"
    assert_gone()
    with pytest.raises(WorkFailed, match="closed"):
        group.train(rows, 2)
    group.close()


class Interrupt:
    """Sends one rank a signal once training is under way."""

    def __init__(self, number: signal.Signals) -> None:
        self.number, self.sent = number, False

    def __call__(self, doing: str) -> None:
        if "step" in doing and not self.sent:
            self.sent = True
            os.kill(processes(RANK)[-1].pid, self.number)


@pytest.mark.usefixtures("_cluster")
@pytest.mark.parametrize(
    ("number", "changes", "says"),
    [
        (signal.SIGKILL, {"ranks": 2}, "train"),
        pytest.param(
            signal.SIGSTOP,
            {"ranks": 1, "hang_s": 15.0},
            "no progress for 15 s",
            marks=pytest.mark.slow,  # what is silent too long is tested on the hub below
        ),
    ],
    ids=["dead", "stopped"],
)
def test_a_dead_or_stopped_rank_is_noticed_and_cleared_away(
    rows: list[TrainRow], shelf: Shelf, number: signal.Signals, changes: dict[str, Any], says: str
) -> None:
    group = shelf.start(tiny_policy(), **changes, collective_timeout_s=60)
    interrupt = Interrupt(number)
    with pytest.raises(WorkFailed, match=says) as failed:
        group.train(rows * 400, 0, progress=interrupt)
    assert failed.value.failure.kind == "infrastructure"
    assert interrupt.sent
    assert_gone()


@pytest.mark.usefixtures("_cluster")
def test_a_group_without_room_does_not_start_and_is_tried_again(policy: Path, shelf: Shelf) -> None:
    need = r"8 ranks of 0\.5 CPU each need 4, and the cluster has 2 now"
    with pytest.raises(WorkFailed, match=need) as failed:
        shelf.start(policy, ranks=8)
    assert failed.value.failure.kind == "infrastructure"
    assert processes(*GROUP) == []


def make_hub(**changes: Any) -> Hub:
    made = Hub(settings(ranks=2, start_s=3600.0, **changes))
    made._fit = Future()
    return made


@pytest.fixture
def hub() -> Hub:
    return make_hub()


def test_a_command_is_done_when_every_rank_has_answered(hub: Hub) -> None:
    number = hub.command("train", {"seed": 3})
    assert hub.next(0, 0, 0.0) == (number, "train", {"seed": 3})
    assert hub.next(0, number, 0.01) is None
    hub.answer(1, number, "b")
    assert not hub.status(number, 0.01).ended
    assert hub.dismiss() is False
    hub.answer(0, number, "a")
    assert hub.status(number, 0.0).answers == ("a", "b")
    assert hub.dismiss() is True
    assert hub.next(1, number, 0.0) == (number + 1, "leave", {})


def test_silence_is_a_hang_only_once_the_ranks_were_up() -> None:
    hub = make_hub(hang_s=0.2)
    number = hub.command("ready", {})
    assert not hub.status(number, 0.4).ended
    for rank in range(2):
        hub.answer(rank, number, None)
    number = hub.command("train", {})
    hub.beat(0, "step 1 of 9")
    failure = hub.status(number, 0.4).failure
    assert failure is not None
    assert "no progress for 0.2 s: rank 0: step 1 of 9" in failure.reason


def test_a_named_reason_outweighs_the_end_that_follows_it(hub: Hub) -> None:
    assert hub._fit is not None
    number = hub.command("train", {})
    hub.refuse(1, Failure("lost", "gone", "images/x"))
    hub._fit.set_exception(RuntimeError("a rank died"))
    assert hub.status(number, 0.0).failure == Failure("lost", "rank 1: gone", "images/x")


def test_the_end_of_the_group_ends_a_command(hub: Hub) -> None:
    assert hub._fit is not None
    number = hub.command("train", {})
    hub._fit.set_exception(RuntimeError("a rank died"))
    failure = hub.status(number, 60.0).failure
    assert failure == Failure("infrastructure", "RuntimeError: a rank died")
