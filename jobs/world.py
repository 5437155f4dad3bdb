"""The roles of a run as they really are: Ray, the engines, the graders and the learner.

Everything that runs queries through the stages (the loop, `validate`, `bench`) gets its roles here,
so what is tried out is what runs. Nothing that is started here outlives the job.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from actors.grading import GradePool
from actors.node_cache import sweep
from actors.processor import load_processor
from jobs.cli import interruptible
from jobs.fleet import EngineFleet
from jobs.own_folder import learner_folder
from jobs.prepare import engine_settings, out_folder, repairer, store_url, versions
from jobs.wiring import PoolGrader
from pipeline.config import Config, check_machine
from pipeline.dataset import Dataset
from pipeline.dataset import check_writable as check_folder
from pipeline.errors import BadConfig
from pipeline.frozen import frozen_problem
from pipeline.program import Program
from pipeline.roles import Scorer, World
from pipeline.score_stage import scored_how
from pipeline.store import Store, check_writable, open_store

Say = Callable[[str], None]


def check_here(config: Config) -> None:
    """Refuse what this machine can never place (a cluster is asked once it is joined), and a folder
    for outputs that cannot be written.

    Raises:
        BadConfig, BadData: naming the key or the folder.
    """
    if config.cluster.address is None:
        check_machine(config, os.cpu_count() or 1, gpus=float("inf"))
    check_folder(out_folder(config))


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
    store = open_store(url, say=say)
    check_writable(store)
    if store.conditional_writes():
        say(f"{store.url} honours conditional writes: one driver at a time, wherever it runs")
    else:
        say(
            f"{store.url} does not honour conditional writes: that only one driver works on a run "
            "is guaranteed inside one Ray cluster only"
        )
    return store


def check_models(config: Config) -> None:
    """Refuse a model folder that cannot be used, before anything is started.

    Raises:
        BadModel: naming the folder and what is missing or does not fit.
        BadConfig: parameters are to be frozen that the policy does not have.
    """
    for model in filter(None, (config.policy.path, config.warmup.checkpoint)):
        load_processor(Path(model))
    if config.select.reward != "prm":
        return
    policy = Path(config.warmup.checkpoint or config.policy.path)
    if config.prm.path is None:
        from actors.step_head import HEAD, parameter_names

        names = [*parameter_names(policy), HEAD]
        problem = frozen_problem(names, config.prm.frozen, HEAD)
        if problem is not None:
            raise BadConfig(f"prm.frozen, of the policy {policy}: {problem}")
        if config.prm.surprise:
            from actors.surprise import token_head

            token_head(policy)
    else:
        from actors.prm_model import check_prm
        from jobs.scoring import tag_words

        most = config.generate.max_model_len
        with tempfile.TemporaryDirectory() as scratch:
            check_prm(
                Path(config.prm.path),
                policy,
                tag_words(config),
                Path(scratch),
                max_model_len=most,
            )


@contextmanager
def running(
    program: Program, store: Store, dataset: Dataset, say: Say, folder: Path | None = None
) -> Iterator[World]:
    """Ray, the engines, the graders, the scorers and the learner, for as long as needed.

    folder: what the learner works in; None: one of this driver's own (`jobs.own_folder`).
    """
    from actors.images import StoreImages
    from actors.own_node import OwnNode
    from jobs.learning import GroupLearner, ray_start
    from jobs.pools import caches, generator_pool, start_ray
    from jobs.scoring import PolicyDecoders

    config = program.config
    with ExitStack() as stack:
        # What this machine's engines fetched goes with them; what a killed driver's did, before.
        stack.callback(sweep, caches(Path(tempfile.gettempdir())))
        kept = folder or stack.enter_context(learner_folder(config))
        stack.enter_context(start_ray(config))
        interruptible()
        pool = generator_pool(config, store, Path(tempfile.gettempdir()), say)
        stack.callback(pool.close)
        grader = PoolGrader(store, GradePool(config.grade.processes, config.grade.deadline_s))
        stack.callback(grader.close)
        scorer = _scorer(config, store, say, stack) if config.select.reward == "prm" else None
        start = ray_start(StoreImages(store.url))
        learner = GroupLearner(config, store, program.by_hash, kept, start)
        stack.callback(learner.close)
        yield World(
            fleet=EngineFleet(pool, program.by_hash),
            grader=grader,
            learner=learner,
            scorer=scorer,
            decoder=PolicyDecoders(store, kept / "policies"),
            versions=versions(),
            repair=repairer(store, dataset, config, kept),
            check=OwnNode().check,
        )


def _scorer(config: Config, store: Store, say: Say, stack: ExitStack) -> Scorer:
    from jobs.scoring import PoolScorer, scorer_pool

    pool = scorer_pool(config, store, tempfile.gettempdir(), say)
    stack.callback(pool.close)
    return PoolScorer(store, pool, engine_settings(config).identity(), scored_how(config))
