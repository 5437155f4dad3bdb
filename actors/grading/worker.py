"""A grading process: reads batches of answers from its parent, writes one outcome after another.

    python -m actors.grading.worker DEADLINE_S        (started by `actors.grading.pool.GradePool`
    only)

    in:   [[index, answer, [query id, gold answer, answer type, choices]], ...]     one batch a line
    out:  ["ready"]
          [index, outcome] | [index, "unparsed", reason]: what could not be compared
          [index, "failed", reason]: a bad gold answer
          [index, "broken", traceback]: the grader raised; the process ends

What always holds: an outcome is written before the next answer is begun, so the parent knows which
one is at work. A batch is read whole before the first outcome is written, so the two cannot wait
for each other. The deadline is processor time and the kernel keeps it (RLIMIT_CPU, SIGXCPU): it
reaches an expression that never lets Python run again, no busy machine makes it shorter, and it
ends a process whose parent is gone. An idle one ends with its pipe.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from pipeline.errors import BadData
from pipeline.grading import algebra
from pipeline.grading.grade import Gold, Verdict, judge

Judge = Callable[[str, Gold], Verdict]

_HARD_LIMIT = resource.getrlimit(resource.RLIMIT_CPU)[1]


class _Channel:
    """The pipe to the parent: JSON lines, each written at once."""

    def __init__(self) -> None:
        # What a library prints goes to stderr: it must not get between the outcomes.
        self._out = os.dup(1)
        os.dup2(2, 1)
        # The answer that an exception is to be reported for.
        self.at_work: int | None = None

    def say(self, *message: object) -> None:
        os.write(self._out, json.dumps(message).encode() + b"\n")

    def report(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """The excepthook: the grader itself failed. Named to the parent; the process then ends."""
        if issubclass(kind, BrokenPipeError):
            return  # the parent is gone: nobody is left to tell
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(text)
        if self.at_work is not None:
            self.say(self.at_work, "broken", text)


def _allow(seconds: float) -> None:
    """Let this process use so much more processor time (whole seconds, rounded up)."""
    soft = math.ceil(time.process_time() + seconds)
    soft = soft if _HARD_LIMIT == resource.RLIM_INFINITY else min(soft, _HARD_LIMIT)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, _HARD_LIMIT))


def _judged(judge: Judge, answer: str, gold: Gold, deadline_s: float) -> Verdict:
    _allow(deadline_s)
    try:
        return judge(answer, gold)
    except (MemoryError, RecursionError):
        # Out of memory or stack is out of bounds like out of time; it is no verdict.
        return Verdict("timeout")


def main(deadline_s: float, judge: Judge = judge, load: Callable[[], None] = algebra.load) -> None:
    """Grade batches until the parent closes the pipe.

    load: what has to be imported first; it is not the time of any answer.
    """
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = _Channel()
    sys.excepthook = channel.report
    load()
    channel.say("ready")
    for line in sys.stdin.buffer:
        for index, answer, (query_id, gold_answer, answer_type, choices) in json.loads(line):
            channel.at_work = index
            gold = Gold(query_id, gold_answer, answer_type, choices and tuple(choices))
            try:
                verdict = _judged(judge, answer, gold, deadline_s)
            except BadData as error:
                channel.say(index, "failed", str(error))
            else:
                channel.say(index, verdict.outcome, *filter(None, [verdict.reason]))
        channel.at_work = None


if __name__ == "__main__":
    main(float(sys.argv[1]))
