"""What runs after each other keep of Ray, engines and ranks, and when they start anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from jobs.runtime.roles import Kept, kind_of
from pipeline.config.schema import Config
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store

STORE = Store(MemoryBackend())


class Ranks:
    """A group of ranks; happened: what is started, reset and ended, of everything."""

    def __init__(self, number: int, happened: list[str]) -> None:
        self.number, self.closed, self._happened = number, False, happened

    def reset(self, source: str, settings: str) -> None:
        self._happened.append(f"ranks {self.number} begin anew from {source}")

    def fail(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True
        self._happened.append(f"ranks {self.number} end")


class Counted:
    """A run's own, counted."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self._groups = 0

    @contextmanager
    def ray(self, *_: Any) -> Iterator[None]:
        self.happened.append("Ray starts")
        yield
        self.happened.append("Ray ends")

    @contextmanager
    def engines(self, config: Config, store: Store, say: Callable[[str], None]) -> Iterator[Any]:
        self.happened.append("engines start")
        say("an engine")
        yield "engines"
        self.happened.append("engines end")

    def ranks(self, means: Any) -> Any:
        def start(settings: str, source: str) -> Ranks:
            self._groups += 1
            self.happened.append(f"ranks {self._groups} start from {source}")
            return Ranks(self._groups, self.happened)

        return start


def do(
    kept: Kept, config: Config, source: str, inside: Callable[[Any], None] | None = None
) -> None:
    """One run, whose learner starts ranks from a checkpoint and ends them."""
    said: list[str] = []
    with kept.ray(config, STORE, said.append), kept.engines(config, STORE, said.append) as engines:
        assert cast("Any", engines) == "engines"
        group: Any = kept.ranks(cast("Any", "means"))(cast("Any", "settings"), cast("Any", source))
        if inside is not None:
            inside(group)
        group.close()


def of(**sections: Any) -> Config:
    return Config.model_validate(sections)


def test_the_next_run_of_a_kind_has_those_of_the_one_before() -> None:
    own = Counted()
    with Kept(own) as kept:
        do(kept, of(), "a")
        do(kept, of(select={"rule": "all_correct"}, run={"seed": 3}), "b")
        assert own.happened == ["Ray starts", "engines start", "ranks 1 start from a",
                                "ranks 1 begin anew from b"]  # fmt: skip
    assert own.happened[4:] == ["ranks 1 end", "engines end", "Ray ends"]


def test_a_run_of_another_kind_starts_its_own() -> None:
    own = Counted()
    with Kept(own) as kept:
        do(kept, of(), "a")
        do(kept, of(generate={"engines": 2}), "b")
    assert own.happened[3:6] == ["ranks 1 end", "engines end", "Ray ends"]
    assert own.happened.count("Ray starts") == 2


def test_after_a_run_that_failed_nothing_is_kept() -> None:
    own = Counted()

    def stopped(group: Any) -> None:
        raise KeyboardInterrupt

    with Kept(own) as kept:
        do(kept, of(), "a")
        with pytest.raises(KeyboardInterrupt):
            do(kept, of(), "b", stopped)
        assert own.happened[-2:] == ["engines end", "Ray ends"]
        do(kept, of(), "c")
    assert own.happened.count("Ray starts") == 2


def test_ranks_that_failed_are_not_given_to_the_next_run() -> None:
    own = Counted()
    with Kept(own) as kept:
        do(kept, of(), "a", lambda group: group.fail())
        do(kept, of(), "b")
        assert own.happened[-1] == "ranks 2 start from b"
    assert own.happened.count("Ray starts") == 1


@pytest.mark.parametrize(
    "sections",
    [
        {"generate": {"max_sequences": 16}},
        {"generate": {"engines": 2}},
        {"learn": {"ranks": 2}},
        {"policy": {"path": "other"}},
        {"cluster": {"engine_threads": 1}},
        {"run": {"deterministic": True}},
        {"data": {"max_image_pixels": 1000}},
    ],
    ids=str,
)
def test_what_is_started_differs_with_what_it_is_made_by(sections: dict[str, Any]) -> None:
    assert kind_of(of(**sections), STORE) != kind_of(of(), STORE)
