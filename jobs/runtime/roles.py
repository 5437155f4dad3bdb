"""Whose Ray, engines and learner's ranks a run works with: its own, or those of runs before it.

A run alone starts them and ends them (`OWN`). A process that does several runs of one kind after
each other keeps them (`Kept`): every run finds the policy that its shards name, and every training
job begins from its own checkpoint, as inside one run, so what a run computes is the same.

    run ──ends──► kept ──the next asks for the same──► its engines load its policies
                   └──it asks for others, or the run failed──► ended, and started anew
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from actors.generation.engine_settings import engine_settings
from actors.generation.fleet import generator_pool
from jobs.runtime.ray_cluster import start_ray
from pipeline.config.schema import Config
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from actors.supervision.pool import Pool
    from actors.training.group import LearnerGroup
    from actors.training.learner import Group, Start
    from actors.training.source import Means

Say = Callable[[str], None]


class Roles(Protocol):
    """What gives a run its Ray, its engines and its ranks, in this order."""

    def ray(self, config: Config, store: Store, say: Say) -> AbstractContextManager[None]: ...
    def engines(self, config: Config, store: Store, say: Say) -> AbstractContextManager[Pool]: ...
    def ranks(self, means: Means) -> Start: ...


class Own:
    """A run's own, which end with it."""

    @contextmanager
    def ray(self, config: Config, store: Store, say: Say) -> Iterator[None]:
        address = config.cluster.address
        say("starting Ray on this machine" if address is None else f"joining Ray at {address}")
        with start_ray(config, say):
            yield

    @contextmanager
    def engines(self, config: Config, store: Store, say: Say) -> Iterator[Pool]:
        pool = generator_pool(config, store, say)
        try:
            yield pool
        finally:
            pool.close()

    def ranks(self, means: Means) -> Start:
        from actors.training.learner import ray_start

        return ray_start(means)


OWN = Own()


class Kept:
    """Those of one run for the next, on a private Ray. As a context, they end with it.

    own: what starts them.
    """

    def __init__(self, own: Roles = OWN) -> None:
        self._own = own
        self._kind: tuple[object, ...] | None = None
        self._pool: Pool | None = None
        self._group: LearnerGroup | None = None
        self._say: Say = lambda text: None
        self._stack = ExitStack()

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End what is kept."""
        group, self._group, self._pool, self._kind = self._group, None, None, None
        stack, self._stack = self._stack, ExitStack()
        with stack:
            if group is not None:
                group.close()

    @contextmanager
    def ray(self, config: Config, store: Store, say: Say) -> Iterator[None]:
        """Raises: what the run inside raises; then nothing is kept."""
        self._say = say
        if self._kind != (kind := kind_of(config, store)):
            self.end()
            self._stack.enter_context(self._own.ray(config, store, self._tell))
            self._kind = kind
        else:
            say("Ray, engines and ranks are those of the run before")
        try:
            yield
        except BaseException:
            self.end()
            raise

    @contextmanager
    def engines(self, config: Config, store: Store, say: Say) -> Iterator[Pool]:
        if self._pool is None:
            made = self._own.engines(config, store, self._tell)
            self._pool = self._stack.enter_context(made)
        yield self._pool

    def ranks(self, means: Means) -> Start:
        start = self._own.ranks(means)

        def kept(settings: Any, source: Any) -> Group:
            group, self._group = self._group, None
            if group is None:
                group = cast("LearnerGroup", start(settings, source))
            else:
                group.reset(source, settings)
            return cast("Group", _Lent(group, self._back))

        return kept

    def _back(self, group: LearnerGroup) -> None:
        self._group = None if group.closed else group

    def _tell(self, text: str) -> None:
        self._say(text)


class _Lent:
    """A kept group in the hands of a run, which gives it back by closing it."""

    def __init__(self, group: LearnerGroup, back: Callable[[LearnerGroup], None]) -> None:
        self._group, self._back = group, back

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def close(self) -> None:
        self._back(self._group)


def kind_of(config: Config, store: Store) -> tuple[object, ...]:
    """What Ray, engines and ranks are made by: runs that agree in it can have the same ones."""
    from actors.training.group import OF_PROCESSES
    from pipeline.training.settings import LearnSettings

    ranks = LearnSettings.of(config)
    return (
        store.url,
        config.cluster,
        config.policy,
        engine_settings(config),
        config.generate.engines,
        config.prm.scorers,
        config.data.max_image_pixels,
        config.run.deterministic,
        *(getattr(ranks, name) for name in OF_PROCESSES),
    )
