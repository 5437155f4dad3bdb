"""Jobs submitted to a cluster, as a person does: from a checkout elsewhere than the installed one,
with token authentication, to object storage. One cluster serves all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.local.cluster import NodeType, short_folder
from jobs.runtime.code_identity import code_hash
from tests.support.local_cluster import Jobs, occupy, submitting
from tests.support.main_job import SMALL, accepted, assert_nothing_twice
from tests.support.s3_servers import BUCKET, bucket_store

pytestmark = pytest.mark.timeout(1500)

NODES = {"worker": NodeType({"CPU": 1}), "single": NodeType({"CPU": 1, "single": 1}, most=1)}

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    with short_folder() as folder:
        with submitting(folder, NODES, head_cpus=4) as found:
            yield found
        assert not found.cluster.processes()


def settings(jobs: Jobs, prefix: str, *more: str) -> tuple[str, ...]:
    """Of a small run whose store is at a prefix; its own files are in a folder of the head."""
    return (f"store.url=s3://{BUCKET}/{prefix}", f"run.out={jobs.out}", *SMALL, *more)


def test_a_recipe_that_cannot_run_has_failed_and_says_why_at_the_end(jobs: Jobs) -> None:
    jobs.submit("local-store", "tiny", ["store.url=/data/store", f"run.out={jobs.out}"])
    jobs.submit("no-recipe", "tyni")
    job = jobs.end_of("local-store")
    assert job.status == "FAILED"
    assert "exit code 2" in job.message
    assert job.last_line.startswith("error: store.url = /data/store: one node's disk")
    assert "Traceback" not in job.log
    job = jobs.end_of("no-recipe")
    assert (job.status, "exit code 2" in job.message) == ("FAILED", True)
    assert job.last_line.startswith("error: no recipe 'tyni'")


@pytest.mark.slow
def test_a_demand_that_no_node_type_can_give_is_refused_with_the_numbers(jobs: Jobs) -> None:
    more = ("cluster.rank_resource=single", "learn.ranks=2")
    jobs.submit("too-much", "tiny", settings(jobs, "too-much", *more))
    job = jobs.end_of("too-much")
    assert (job.status, "exit code 2" in job.message) == ("FAILED", True), job.log
    words = "asks for 2 times 1 CPUs and 0 GPUs and 1 single, and 1 of them is all that there is"
    assert words in job.last_line
    assert "single (1 CPUs, 0 GPUs, at most 1 such nodes)" in job.last_line
    assert not bucket_store("too-much").list("images")  # refused before they are put there


@pytest.mark.slow
def test_a_runtime_environment_that_cannot_be_built_is_named(jobs: Jobs) -> None:
    jobs.submit("no-package", "tiny", runtime_env={"pip": ["/nonexistent/package.whl"]})
    job = jobs.end_of("no-package")
    assert job.status == "FAILED"
    assert "/nonexistent/package.whl" in job.message


@pytest.mark.slow
def test_a_stopped_job_goes_on_with_an_edited_checkout(jobs: Jobs) -> None:
    jobs.submit("first", "tiny", settings(jobs, "stopped"))
    jobs.wait_for("first", "stopped", "tiny", lambda events: accepted(events, "warmup"))
    jobs.stop("first")
    first = jobs.end_of("first")
    assert first.status == "STOPPED"
    assert first.last_line == "interrupted; the same command goes on from here"
    before = code_hash(jobs.checkout)
    edited = jobs.checkout / "jobs" / "run.py"
    edited.write_text(edited.read_text() + "# edited\n")
    jobs.submit("second", "tiny", settings(jobs, "stopped"), metadata={"commit": COMMIT})
    second = jobs.end_of("second")
    assert second.status == "SUCCEEDED", second.log[-4000:]
    events = jobs.events("stopped", "tiny")
    assert_nothing_twice(events, iterations=1)
    assert [event["type"] for event in events].count("run_created") == 1
    codes = [event["versions"]["code"] for event in events if "versions" in event]
    assert codes == [before, code_hash(jobs.checkout)]
    check_log(jobs, second.log)
    outputs = bucket_store("stopped").list("runs/tiny/outputs")
    assert "runs/tiny/outputs/summary.json" in outputs
    assert any("/tensorboard/" in path for path in outputs)
    check_no_secret(jobs)


@pytest.mark.slow
def test_jobs_on_one_cluster_do_not_meet(jobs: Jobs) -> None:
    """One waits for a node that another has: it is at work when its run is asked for again."""
    waiting = "cluster.rank_resource=single"
    occupy(jobs.cluster, {"single": 1.0})
    jobs.submit("one", "tiny", settings(jobs, "both", "run.name=one", waiting))
    jobs.submit("two", "tiny", settings(jobs, "both", "run.name=two"))
    for name in ("one", "two"):
        jobs.wait_for(name, "both", name, lambda events: accepted(events, "warmup"))
    jobs.stop("two")
    assert jobs.end_of("two").status == "STOPPED"
    jobs.submit("one-again", "tiny", settings(jobs, "both", "run.name=one"))
    refused = jobs.end_of("one-again")
    assert (refused.status, "exit code 2" in refused.message) == ("FAILED", True), refused.log
    assert "run one is " in refused.last_line
    assert jobs.status("one") == "RUNNING"
    words = "the autoscaler has no node type left with room for 1 CPU and 1 single"
    assert words in jobs.log("one")
    jobs.stop("one")
    assert jobs.end_of("one").last_line == "interrupted; the same command goes on from here"
    for name in ("one", "two"):
        jobs.submit(f"{name}-on", "tiny", settings(jobs, "both", f"run.name={name}"))
    for name in ("one", "two"):
        job = jobs.end_of(f"{name}-on")
        assert job.status == "SUCCEEDED", job.log[-4000:]
        assert_nothing_twice(jobs.events("both", name), iterations=1)


def check_log(jobs: Jobs, log: str) -> None:
    """It names the commit and where modules come from: Ray's copy, not the installed one."""
    (code,) = [line for line in log.splitlines() if line.startswith("code: ")]
    assert COMMIT in code
    assert code_hash(jobs.checkout) in code
    assert "/working_dir_files/_ray_pkg_" in code
    assert "warning: modules come from" not in log
    assert f"final policy (evolve/0): {jobs.out}/tiny/final, sha256 " in log
    assert "AWS_SECRET_ACCESS_KEY" in log  # by name


def check_no_secret(jobs: Jobs) -> None:
    """The store's secret key is in nothing that the cluster wrote or says of its jobs."""
    secret = jobs.secret.encode()
    files = [file for file in jobs.cluster.folder.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if secret in file.read_bytes()]
    assert jobs.secret not in str(jobs.cluster.jobs())
