"""Stand-ins with scripted failures that satisfy the same protocols as the real things."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.supervision.failures import CallResult, Failure
from pipeline.generation.engine import Sample, SampleRequest
from pipeline.hashing import canonical_json, sha256_hex

Prompted = Callable[[str, tuple[str, ...]], tuple[int, ...]]


class ScriptedEngine:
    """An engine whose samples are a function of policy, prompt, images, prefix and seed.

    `prompted` gives a prompt's ids. `vocabulary` bounds the sampled ids, which end with `end_id`.
    `fail_on` maps the number of a `generate` call (the first is 0) to what it raises.
    """

    def __init__(
        self,
        prompted: Prompted,
        *,
        vocabulary: tuple[int, int] = (32, 127),
        end_id: int = 1,
        decode: Callable[[Sequence[int]], str] = lambda ids: "".join(map(chr, ids[:-1])),
        fail_on: Mapping[int, BaseException] | None = None,
    ) -> None:
        self.prompted = prompted
        self.vocabulary = vocabulary
        self.end_id = end_id
        self.decode = decode
        self.fail_on = dict(fail_on or {})
        self.loaded: list[Path] = []
        self.calls: list[list[SampleRequest]] = []
        self.closed = False

    def load_policy(self, folder: Path) -> None:
        self.loaded.append(folder)

    def generate(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        number = len(self.calls)
        self.calls.append(list(requests))
        if number in self.fail_on:
            raise self.fail_on[number]
        return [self._sample(request) for request in requests]

    def _sample(self, request: SampleRequest) -> Sample:
        who = [str(self.loaded[-1].name), request.prompt, list(request.images)]
        digest = sha256_hex(canonical_json([*who, list(request.prefix_token_ids), request.seed]))
        low, high = self.vocabulary
        body = [low + byte % (high - low) for byte in bytes.fromhex(digest[:24])]
        cut = len(body) >= request.max_new_tokens
        ids = tuple(body[: request.max_new_tokens]) if cut else (*body, self.end_id)
        return Sample(
            token_ids_T=ids,
            logprobs_T=tuple(-1.0 for _ in ids),
            text=self.decode([*request.prefix_token_ids, *ids]),
            finish="length" if cut else "stop",
            prompt_token_ids_P=self.prompted(request.prompt, request.images),
        )

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class ScriptedWork:
    """Work for a `ScriptedActor`.

    do: "value", "user", "infrastructure", "raise", "exit", "kill", "stop" (SIGSTOP) or "hang"; what
    ends the process or fails does so `times` times and then gives a value. It works for `seconds`
    first, and until the log holds a line so many times: ("run b", 1).
    """

    key: str
    do: str = "value"
    times: int = 1
    seconds: float = 0.0
    until: tuple[str, int] = ("", 0)


class ScriptedActor:
    """A pool's actor that does what each piece of work says, so that a test can kill it where it
    likes. A value is the actor's process id. `folder` counts what happened across processes."""

    def __init__(self, folder: str, start: str = "value") -> None:
        self.folder = Path(folder)
        self.how = start
        self.count = 0

    def start(self, work: ScriptedWork) -> CallResult:
        self._note("start")
        did = self._do(ScriptedWork("start", self.how, 1 if self.how == "exit" else 1_000_000))
        return CallResult(failure=did.failure)

    def run(self, work: ScriptedWork) -> CallResult:
        self._note(f"run {work.key}")
        self.count += 1
        end = time.monotonic() + work.seconds
        while time.monotonic() < end or self._noted(work.until[0]) < work.until[1]:
            time.sleep(0.02)
            self.count += 1
        return self._do(work)

    def progress(self) -> tuple[int, str]:
        return self.count, f"at {self.count}"

    def _do(self, work: ScriptedWork) -> CallResult:
        if work.do == "user":
            return CallResult(failure=Failure("user", "mend this"))
        if work.do == "value" or self._noted(f"fail {work.key}") >= work.times:
            self._note(f"value {work.key}")
            return CallResult(os.getpid())
        self._note(f"fail {work.key}")
        if work.do == "infrastructure":
            return CallResult(failure=Failure("infrastructure", "the store does not answer"))
        if work.do == "raise":
            raise ValueError("the engine is broken")
        if work.do == "hang":
            time.sleep(600)
        signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
        if work.do in signals:
            os.kill(os.getpid(), signals[work.do])
            time.sleep(600)
        os._exit(1)

    def _note(self, line: str) -> None:
        with (self.folder / "log").open("a") as log:
            log.write(f"{os.getpid()} {line}\n")

    def _noted(self, what: str) -> int:
        lines = (self.folder / "log").read_text().splitlines()
        return sum(line.endswith(f" {what}") for line in lines)
