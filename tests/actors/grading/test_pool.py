"""The grading pool: real processes, the real grader or one that acts as its answers say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from actors.grading.pool import GradePool, GraderUnavailable, GradingFailed
from pipeline.errors import BadData, UserError
from pipeline.query import AnswerType, Query

ROOT = Path(__file__).resolve().parents[3]


class ScriptedPool(GradePool):
    WORKER = (str(ROOT / "tests" / "support" / "scripted_grader.py"), "0")


class SlowLoadingPool(GradePool):
    WORKER = (str(ROOT / "tests" / "support" / "scripted_grader.py"), "2.2")


def query(gold: str | None, answer_type: AnswerType = "number", name: str = "q") -> Query:
    return Query(name, (), "How many?", None, gold, answer_type)


def item(answer: object, gold: object, answer_type: AnswerType = "number") -> tuple[str, Query]:
    return f"A step.\n\n# Answer\n\n{answer}", query(str(gold), answer_type)


def outcomes(pool: GradePool, items: list[tuple[str, Query]]) -> list[str]:
    return [result.outcome for result in pool.grade_many(items)]


def wait_until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


# -- what comes back ---------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_items() -> None:
    answers = [(n, (n * 7) % 5) for n in range(300)]
    items = [item(n % 5, gold) for n, gold in answers]
    with closing(GradePool(2, 20.0)) as pool:
        results = pool.grade_many(items)
    assert [r.outcome for r in results] == [
        "correct" if n % 5 == gold else "wrong" for n, gold in answers
    ]
    assert [r.extracted for r in results] == [str(n % 5) for n, _ in answers]


def test_a_response_without_an_answer_is_unparsed_and_has_nothing_extracted() -> None:
    two = "# Answer\n\n5\n\n# Answer\n\n5"
    with closing(GradePool(1, 20.0)) as pool:
        results = pool.grade_many([("no heading", query("5")), (two, query("5")), item("?", 5)])
    assert [(r.outcome, r.extracted) for r in results] == [
        ("unparsed", None),
        ("unparsed", None),
        ("unparsed", "?"),
    ]


def test_nothing_to_grade_starts_no_process() -> None:
    with closing(GradePool(2, 20.0)) as pool:
        assert pool.grade_many([]) == []
        assert outcomes(pool, [("no heading", query("5"))]) == ["unparsed"]
        assert outcomes(pool, [item("9" * 5000, 5)]) == ["unparsed"]
        assert pool.pids == []


def test_equal_answers_to_one_query_are_graded_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with closing(ScriptedPool(2, 20.0)) as pool:
        items = [item(f"log {log}", gold) for gold in (1, 2, 1, 1, 2)]
        assert outcomes(pool, items) == ["correct"] * 5
    assert sorted(log.read_text().split()) == ["1", "2"]


def test_batches_of_long_answers_pass_through_the_pipe() -> None:
    long = [f"{n} " + "abcdefgh " * 100 for n in range(400)]
    items = [item(text, long[index ^ 1], "word") for index, text in enumerate(long)]
    items += [item(text, text, "word") for text in long]
    with closing(GradePool(2, 20.0)) as pool:
        assert outcomes(pool, items) == ["wrong"] * 400 + ["correct"] * 400


def test_what_a_library_prints_does_not_get_between_the_outcomes() -> None:
    with closing(ScriptedPool(1, 20.0)) as pool:
        items = [item('print [0, "wrong"]', 1), item("print noise", 2), item("ok", 3)]
        assert outcomes(pool, items) == ["correct"] * 3


# -- time and crashes --------------------------------------------------------------------------


def test_a_hopeless_answer_is_timeout_and_the_rest_is_graded() -> None:
    items = [item(f"ok {n}", n) for n in range(80)]
    items[7:7] = [item("spin 100", 5)]
    items[60:60] = [item("deaf", 5)]
    with closing(ScriptedPool(2, 2.0)) as pool:
        graded = outcomes(pool, items)
        assert graded.pop(60) == "timeout"
        assert graded.pop(7) == "timeout"
        assert graded == ["correct"] * 80
        assert outcomes(pool, [item("ok", 2)]) == ["correct"]


@pytest.mark.parametrize("answer", ["9**9**9**9", "2^{1000000000000}", "(10^{10^8})!", "x" * 900])
def test_the_real_grader_needs_no_deadline_for_what_is_too_large(answer: str) -> None:
    with closing(GradePool(1, 20.0)) as pool:
        (result,) = pool.grade_many([item(answer, "5+y", "expression")])
    assert result.outcome in ("wrong", "unparsed")


def test_a_comparison_that_failed_says_why() -> None:
    with closing(ScriptedPool(1, 20.0)) as pool:
        first, second = pool.grade_many([item("reason no value", 1), item("ok", 2)])
    assert (first.outcome, first.reason) == ("unparsed", "no value")
    assert (second.outcome, second.reason) == ("correct", None)


def test_every_item_has_the_whole_deadline_to_itself() -> None:
    # Together they take far longer than the deadline; none of them alone does.
    items = [item("spin 0.6", n) for n in range(5)]
    with closing(ScriptedPool(1, 1.0)) as pool:
        assert outcomes(pool, items) == ["correct"] * 5


def test_loading_the_library_is_not_the_answers_time() -> None:
    with closing(SlowLoadingPool(1, 1.0)) as pool:
        assert outcomes(pool, [item("ok", 1), item("ok", 2)]) == ["correct"] * 2


def test_only_the_item_that_overran_is_timeout_and_its_process_is_replaced() -> None:
    items = [
        item("ok", 1),
        item("spin 100", 2),
        item("ok", 3),
        item("spin 100", 4),
        item("ok", 5),
    ]
    with closing(ScriptedPool(1, 1.0)) as pool:
        assert outcomes(pool, [item("ok", 0)]) == ["correct"]
        (before,) = pool.pids
        assert outcomes(pool, items) == ["correct", "timeout", "correct", "timeout", "correct"]
        (after,) = pool.pids
    assert before != after
    assert not alive(before)


def test_an_item_that_overran_is_not_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with closing(ScriptedPool(1, 1.0)) as pool:
        assert outcomes(pool, [item(f"log-and-spin {log}", 1)]) == ["timeout"]
    assert log.read_text() == "1\n"


def test_an_item_that_kills_its_process_twice_is_timeout_and_the_rest_is_graded() -> None:
    with closing(ScriptedPool(2, 20.0)) as pool:
        items = [item("ok", 1), item("die", 2), item("ok", 3)]
        assert outcomes(pool, items) == ["correct", "timeout", "correct"]


def test_a_process_killed_once_costs_no_outcome(tmp_path: Path) -> None:
    # The kernel, or a person, may kill a process whose answer is fine.
    with closing(ScriptedPool(1, 20.0)) as pool:
        items = [item("ok", 1), item(f"die-once {tmp_path / 'mark'}", 2), item("ok", 3)]
        assert outcomes(pool, items) == ["correct"] * 3


def test_an_idle_process_that_died_is_replaced() -> None:
    with closing(GradePool(1, 20.0)) as pool:
        assert outcomes(pool, [item(1, 1)]) == ["correct"]
        (pid,) = pool.pids
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))
        assert outcomes(pool, [item(1, 1), item(2, 2)]) == ["correct"] * 2
        assert pool.pids != [pid]


def test_a_process_that_gives_no_sign_of_life_is_replaced() -> None:
    with closing(ScriptedPool(1, 20.0, stall_s=6.0)) as pool:
        items = [item("ok", 1), item("stop", 2), item("ok", 3)]
        assert outcomes(pool, items) == ["correct", "timeout", "correct"]


def test_running_out_of_memory_is_timeout() -> None:
    with closing(ScriptedPool(1, 20.0)) as pool:
        assert outcomes(pool, [item("exhaust", 1), item("ok", 2)]) == ["timeout", "correct"]


# -- failures that are no outcome --------------------------------------------------------------


def test_a_grader_that_raises_is_an_error_naming_the_query_and_the_rest_is_graded() -> None:
    items = [item("ok", 1), item("raise on purpose", 2), item("ok", 3)]
    items[1] = (items[1][0], query("2", name="train/17"))
    with closing(ScriptedPool(1, 20.0)) as pool:
        with pytest.raises(GradingFailed, match="train/17") as failed:
            pool.grade_many(items)
        [(position, reason)] = failed.value.failures
        assert position == 1
        assert "ArithmeticError: on purpose" in reason
        assert [r and r.outcome for r in failed.value.results] == ["correct", None, "correct"]
        assert outcomes(pool, [item("ok", 1)]) == ["correct"]


def test_a_gold_answer_that_is_not_of_its_type_is_an_error_and_costs_no_process() -> None:
    with closing(GradePool(1, 20.0)) as pool:
        assert outcomes(pool, [item(1, 1)]) == ["correct"]
        before = pool.pids
        with pytest.raises(GradingFailed, match="banana") as failed:
            pool.grade_many([item(1, "banana"), item(2, 2)])
        assert isinstance(failed.value, UserError)
        assert [position for position, _ in failed.value.failures] == [0]
        assert pool.pids == before


def test_a_query_without_an_answer_is_refused_before_anything_is_graded() -> None:
    with closing(GradePool(1, 20.0)) as pool, pytest.raises(BadData, match="train/3"):
        pool.grade_many([item(1, 1), (item(1, 1)[0], query(None, name="train/3"))])


def test_processes_that_cannot_start_are_an_error_not_a_loop() -> None:
    class Broken(GradePool):
        WORKER = ("-c", "raise SystemExit(3)")

    with closing(Broken(2, 20.0)) as pool, pytest.raises(GraderUnavailable):
        pool.grade_many([item(1, 1)])


# -- processes and threads ---------------------------------------------------------------------


def test_it_works_in_threads_and_sets_no_alarm() -> None:
    items = [item("ok", 1), item("deaf", 5), item("ok", 3)]
    before = signal.getsignal(signal.SIGALRM)
    with closing(ScriptedPool(1, 2.0)) as pool, ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(outcomes, pool, items) for _ in range(2)]
        assert [f.result() for f in futures] == [["correct", "timeout", "correct"]] * 2
    assert signal.getsignal(signal.SIGALRM) == before


def test_there_are_never_more_processes_than_allowed() -> None:
    most: list[int] = []
    with closing(ScriptedPool(2, 20.0)) as pool:
        done = threading.Event()

        def watch() -> None:
            most.append(len(pool.pids))
            while not done.wait(0.01):
                most.append(len(pool.pids))

        watcher = threading.Thread(target=watch)
        watcher.start()
        items = [item("spin 0.002", n) for n in range(300)] + [item("die", 0)]
        outcomes(pool, items)
        done.set()
        watcher.join()
    assert max(most) == 2


def test_close_ends_the_processes() -> None:
    pool = GradePool(1, 20.0)
    outcomes(pool, [item(1, 1)])
    (pid,) = pool.pids
    pool.close()
    assert not alive(pid)
    with pytest.raises(RuntimeError, match="closed"):
        pool.grade_many([item(1, 1)])


@pytest.mark.parametrize(("processes", "deadline_s"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_impossible_settings_are_refused(processes: int, deadline_s: float) -> None:
    with pytest.raises(ValueError, match="processes"):
        GradePool(processes, deadline_s)


def test_an_interrupt_of_the_process_group_is_left_to_the_parent() -> None:
    # Tests in the background of a shell inherit that SIGINT is ignored; their children would too.
    before_test = signal.signal(signal.SIGINT, signal.default_int_handler)
    with closing(GradePool(1, 20.0)) as pool:
        outcomes(pool, [item(1, 1)])
        before = pool.pids
        os.kill(before[0], signal.SIGINT)
        assert outcomes(pool, [item(2, 2)]) == ["correct"]
        assert pool.pids == before
    signal.signal(signal.SIGINT, before_test)


PARENT = """
    import sys
    from actors.grading.pool import GradePool
    from pipeline.query import Query

    def items(answer):
        return [("# Answer\\n\\n" + answer, Query("q", (), "?", None, "1", "number"))]

    class ScriptedPool(GradePool):
        WORKER = (sys.argv[1], "0")

    pool = ScriptedPool(1, 3.0)
    pool.grade_many(items("ok"))
    print(*pool.pids, flush=True)
    pool.grade_many(items(sys.argv[2])) if len(sys.argv) > 2 else sys.stdin.read()
"""


@pytest.mark.parametrize("answer", [[], ["deaf"]], ids=["idle", "deaf"])
def test_no_worker_survives_the_sigkill_of_its_parent(answer: list[str]) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), ScriptedPool.WORKER[0], *answer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    with parent.stdout, parent.stdin:
        worker = int(parent.stdout.readline())
        if answer:
            start = cpu_ticks(worker)
            wait_until(lambda: cpu_ticks(worker) > start + 20)
        assert alive(worker)
        parent.kill()
        parent.wait()
    wait_until(lambda: not alive(worker))


def test_a_grader_whose_parent_is_gone_ends_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *GradePool.WORKER, "1"]
    ended = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert ended.returncode
    assert ended.stderr == b""
