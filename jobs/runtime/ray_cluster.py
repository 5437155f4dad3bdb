"""Ray and the generator pool, as a configuration describes them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.supervision.process_guard import guard
from pipeline.config.checks import check_machine
from pipeline.config.schema import Config
from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

RAY_STORE_BYTES = 256 << 20

START_ATTEMPTS = 3

# What Ray says of its raylet and of its control store when they are not up after 30 s.
TOO_SLOW = ("timed out during startup", "Timed out waiting for file")


@contextmanager
def start_ray(config: Config) -> Iterator[None]:
    """A private Ray on this machine, or the cluster that the configuration names.

    On a private one roles take turns, so its logical CPUs are as many as all roles ask for
    together, whatever the machine has.
    """
    import ray

    cluster, generate, learn = config.cluster, config.generate, config.learn
    guard()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Workers find this code however the job was started.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part
    )
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if cluster.address is None:
        scorers = config.prm.scorers if config.select.reward == "prm" else 0
        engines = generate.engines + scorers
        wanted = engines * cluster.cpus_per_engine + learn.ranks * cluster.cpus_per_rank
        options["num_cpus"] = int(max(os.cpu_count() or 1, wanted + 0.999))
        options["object_store_memory"] = RAY_STORE_BYTES
        options["include_dashboard"] = False
    else:
        options["address"] = cluster.address
    init_ray(options)
    try:
        there = ray.cluster_resources()
        check_machine(config, there.get("CPU", 0.0), there.get("GPU", 0.0))
        yield
    finally:
        ray.shutdown()


def init_ray(options: dict[str, Any]) -> Any:
    """`ray.init`, again where a busy machine was slower than the 30 s that Ray allows its parts.

    Without an address it is a Ray of this process's own, whatever else runs on the machine: Ray
    itself would join the one it last saw there.

    Returns:
        What `ray.init` returns.

    Raises:
        UserError: it is too slow every time.
    """
    import ray

    attempt = 0
    while True:
        attempt += 1
        try:
            return ray.init(**{"address": "local", **options})
        except Exception as error:  # Ray raises just that
            ray.shutdown()
            if not any(words in str(error) for words in TOO_SLOW):
                raise
            if attempt == START_ATTEMPTS:
                raise UserError(
                    f"Ray did not start within 30 s, {START_ATTEMPTS} times: the machine is too "
                    "busy. Start the job again when it is less so"
                ) from error
