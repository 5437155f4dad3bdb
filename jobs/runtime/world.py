"""The roles of a run as they really are: Ray, the engines, the graders and the learner.

Everything that runs queries through the stages (the loop, `validate`, `bench`) gets its roles here,
so what is tried out is what runs. Nothing that is started here outlives the job.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.generation.fleet import EngineFleet
from actors.supervision.driver_lock import DriverLock
from jobs.runtime.check_models import check_models
from jobs.runtime.check_queries import check_queries
from jobs.runtime.cli import interruptible
from jobs.runtime.cluster_job import check_shared
from jobs.runtime.prepare import (
    open_run_store,
    out_folder,
    repairer,
    store_url,
    versions,
)
from jobs.runtime.ray_cluster import check_address
from jobs.runtime.roles import OWN, Roles
from pipeline.config.capacity import check_capacity, declared
from pipeline.config.checks import check_machine
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.dataset import check_writable as check_folder
from pipeline.errors import BadConfig
from pipeline.run.spec import RunSpec
from pipeline.stages.workers import Workers
from pipeline.storage.store import Store, check_writable

if TYPE_CHECKING:
    from actors.training.learner import GroupLearner
    from actors.training.room import LearnerRoom

Say = Callable[[str], None]


def check_here(config: Config) -> None:
    """Refuse what this machine can never place, or a cluster that does not answer (what it has is
    asked once it is joined), and a folder for outputs that cannot be written.

    Raises:
        BadConfig, BadData: naming the key or the folder.
    """
    if config.cluster.address is None:
        check_machine(config, os.cpu_count() or 1, _gpus_here(config))
    else:
        check_shared(config)
        check_capacity(config, declared(config))
        check_address(config.cluster.address, config.cluster.join_s)
    check_folder(out_folder(config))


def _gpus_here(config: Config) -> int:
    """How many GPUs this machine shows, where the configuration asks for any."""
    if not (config.cluster.gpus_per_engine or config.cluster.gpus_per_rank):
        return 0
    import torch

    return torch.cuda.device_count()


def run_store(config: Config, say: Say) -> Store:
    """The run's store, tried out, with a word on what it can guarantee.

    Raises:
        BadConfig: it cannot be written, or engines could not reach it.
    """
    url = store_url(config)
    if url.startswith("memory://"):
        raise BadConfig(
            f"store.url = {url}: it lies in this process, and engines are others; give a folder or "
            "s3://bucket/prefix"
        )
    store = open_run_store(config, say)
    check_writable(store)
    if store.conditional_writes():
        say(f"{store.url} honours conditional writes: one driver at a time, wherever it runs")
    else:
        say(
            f"{store.url} does not honour conditional writes: that only one driver works on a run "
            "is guaranteed inside one Ray cluster only"
        )
    return store


@contextmanager
def running(
    program: RunSpec, store: Store, dataset: Dataset, say: Say, roles: Roles = OWN
) -> Iterator[Workers]:
    """Ray, the engines, the graders, the scorers and the learner, for as long as needed.

    roles: whose Ray, engines and ranks they are.
    """
    from actors.scoring.pool_scorer import PoolScorer, scorer_pool
    from actors.stages.worker import PoolStages, stage_pool
    from actors.supervision.node_cache import cache_place, tree_cache
    from actors.supervision.node_watch import NodeWatch
    from jobs.runtime.upkeep import Upkeep

    config = program.config
    with ExitStack() as stack:
        stack.enter_context(roles.ray(config, store, say))
        interruptible()
        engines = stack.enter_context(roles.engines(config, store, say))
        scorers = scorer_pool(config, store, say) if config.select.reward == "prm" else None
        beside = stage_pool(program, store, say)
        pools = [engines] if scorers is None else [engines, scorers]
        for pool in (*pools[1:], beside):
            stack.callback(pool.close)
        stages = PoolStages(beside, say)
        learner, room = _learner(program, store, say, roles)
        stack.callback(learner.close)
        if room is not None:
            stack.callback(room.close)
        upkeep = Upkeep(pools, room, turn_s=config.cluster.turn_s, node=NodeWatch().check, say=say)
        yield Workers(
            stage=stages,
            fleet=EngineFleet(engines, program.by_hash),
            grader=stages.grader,
            learner=learner,
            scorer=None if scorers is None else PoolScorer(scorers),
            versions=versions(),
            repair=repairer(store, dataset, config, tree_cache(cache_place(config))),
            check=upkeep.check,
            resized=upkeep.resized,
        )


def _learner(
    program: RunSpec, store: Store, say: Say, roles: Roles
) -> tuple[GroupLearner, LearnerRoom | None]:
    """The learner, and on a cluster what waits for its room."""
    from actors.model.images import StoreImages
    from actors.supervision.node_cache import cache_place, tree_cache
    from actors.supervision.ray_actors import free_resources
    from actors.training.learner import GroupLearner
    from actors.training.room import LearnerRoom
    from actors.training.source import Means

    config, place = program.config, cache_place(program.config)
    start, cache = roles.ranks(Means(store, StoreImages(store), place)), tree_cache(place)
    if config.cluster.address is None:
        return GroupLearner(config, store, program.by_hash, cache, start), None
    room = LearnerRoom(free_resources, say)
    learner = GroupLearner(config, store, program.by_hash, cache, room.around(start))
    room.let_go = learner.let_go
    return learner, room


@dataclass(frozen=True)
class Parts:
    """What carries a run out besides the driver. A test hands in scripted ones.

    workers: gives the roles for as long as a context lasts. lock: excludes other drivers inside one
    Ray cluster. check_models, check_queries: refuse model folders,
    and queries that a policy cannot be asked, before anything starts. sleep: lets so many seconds
    pass while nothing is ready; roles that answer when they are asked need none.
    """

    workers: Callable[..., AbstractContextManager[Workers]] = running
    lock: Callable[..., Any] = DriverLock
    check_models: Callable[[Config], None] = check_models
    check_queries: Callable[..., None] = check_queries
    sleep: Callable[[float], None] = time.sleep


REAL = Parts()
