"""Stand-ins with scripted failures that satisfy the same protocols as the real things."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.supervision.outcomes import Failure, Outcome
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


class ScriptedActor:
    """A pool's actor that does what each spec says, so that a test can kill it where it likes.

    `folder` counts what happened across processes. A spec's `do` is one of: "value" (default),
    "user", "infrastructure" (once, then a value), "raise", "exit", "kill", "stop" (SIGSTOP),
    "hang"; those that end a process do it `times` times (default: 1) and then give a value.
    It works for `seconds` first, or until the log holds a line `until` times: ("run b", 1).
    """

    def __init__(self, folder: str, start: str = "value") -> None:
        self.folder = Path(folder)
        self.how = start
        self.count = 0

    def start(self) -> Outcome:
        self._note("start")
        return self._do(self.how, {"id": "start", "times": 1_000_000 if self.how != "exit" else 1})

    def run(self, spec: dict[str, Any]) -> Outcome:
        self._note(f"run {spec['id']}")
        self.count += 1
        if spec.get("seconds"):
            end = time.monotonic() + spec["seconds"]
            while time.monotonic() < end:
                time.sleep(0.02)
                self.count += 1
        line, times = spec.get("until", ("", 0))
        while self._noted(line) < times:
            time.sleep(0.02)
            self.count += 1
        return self._do(spec.get("do", "value"), spec)

    def progress(self) -> tuple[int, str]:
        return self.count, f"at {self.count}"

    def _do(self, what: str, spec: dict[str, Any]) -> Outcome:
        if what == "user":
            return Outcome(failure=Failure("user", "mend this"))
        if what == "value" or self._noted(f"fail {spec['id']}") >= spec.get("times", 1):
            self._note(f"value {spec['id']}")
            return Outcome(value={"id": spec["id"], "pid": os.getpid()})
        self._note(f"fail {spec['id']}")
        if what == "infrastructure":
            return Outcome(failure=Failure("infrastructure", "the store does not answer"))
        if what == "raise":
            raise ValueError("the engine is broken")
        if what == "hang":
            time.sleep(600)
        signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
        if what in signals:
            os.kill(os.getpid(), signals[what])
            time.sleep(600)
        os._exit(1)

    def _note(self, line: str) -> None:
        with (self.folder / "log").open("a") as log:
            log.write(f"{os.getpid()} {line}\n")

    def _noted(self, what: str) -> int:
        lines = (self.folder / "log").read_text().splitlines()
        return sum(line.endswith(f" {what}") for line in lines)
