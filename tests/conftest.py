"""The environment of every test: offline, on the CPU, one thread, nothing reported to anybody.

It is set before any test module is imported, because torch, vllm, ray and deepspeed read it when
they are. Processes that tests start inherit it.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    TOKENIZERS_PARALLELISM="false",
    DS_ACCELERATOR="cpu",
    RAY_USAGE_STATS_ENABLED="0",
    # Seconds that Ray's control store may take to start; by default 30, too few here at times.
    RAY_gcs_server_port_wait_time_s="200",
    # By default a Ray starts as many idle workers as it has CPUs.
    RAY_prestart_worker_first_driver="0",
    VLLM_NO_USAGE_STATS="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
)
# Results to the last bit depend on the number of threads, so it is fixed; and the engine, the
# learner's ranks and the grader's processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that;
# tests that interrupt a process mean it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine must not fail a property test, and the examples are the same every time, so that
# a change is judged by what it changes. Who asks for a number of examples is looking for new ones.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile(
    "same", settings.get_profile("explore"), derandomize=True, print_blob=True, database=None
)

settings.load_profile("explore" if "MSTAR_EXAMPLES" in os.environ else "same")


@pytest.fixture(autouse=True, scope="module")
def own_environment() -> Iterator[None]:
    """What a module's engines and clusters tell their process ends with the module; but what Ray
    was told it remembers, and the nodes that the process starts later have to be told the same."""
    variables, folder = dict(os.environ), tempfile.tempdir
    yield
    for name in os.environ.keys() - variables.keys():
        if not name.startswith("RAY_"):
            del os.environ[name]
    os.environ.update({key: variables[key] for key in variables if not key.startswith("RAY_")})
    tempfile.tempdir = folder


# Of these only one test runs at a time: they start clusters, pools of engines and whole runs.
# `make test` runs the others beside them in a second process, a module at a time.
WITH_PROCESSES = (
    "tests/actors/generation/",
    "tests/actors/stages/",
    "tests/actors/supervision/",
    "tests/end_to_end/",
)
# But these, whose clusters and engines are apart from the rest: both processes are to end together.
APART = {"tests/end_to_end/test_two_nodes.py", "tests/end_to_end/test_families.py"}

SLOW = pytest.StashKey[list[str]]()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests have to be run by the same process. (Its marks for that need another pytest.)"""
    from xdist.scheduler import LoadScopeScheduling

    class OneAtATime(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            together = module.startswith(WITH_PROCESSES) and module not in APART
            return "processes" if together else module

    # In the order of their folders, which has the long modules first: at the end only short ones
    # are left to share.
    config.option.loadscopereorder = False
    return OneAtATime(config, log)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember the slow tests that are left out."""
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.config.stash.setdefault(SLOW, []).append(item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand them to the process that reports, where this is one of several."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["slow"] = session.config.stash.get(SLOW, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every process has found the same tests."""
    node.config.stash[SLOW] = getattr(node, "workeroutput", {}).get("slow", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were left out because they are slow, and how they are run."""
    slow = terminalreporter.config.stash.get(SLOW, [])
    if slow:
        files = sorted({name.partition("::")[0] for name in slow})
        terminalreporter.section("slow tests that were left out")
        for file in files:
            count = sum(name.startswith(f"{file}::") for name in slow)
            terminalreporter.line(f"{count:>4}  {file}")
        terminalreporter.line(f'{len(slow)} in all: make test ARGS="-m slow" runs them')
