"""The benchmarks by name, in the order of the paper's table."""

from __future__ import annotations

from pipeline.grading.benchmarks import ai2d, m3cot, mathverse, mathvista, mmbench, mmmu, mmstar
from pipeline.grading.benchmarks.item import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (mathvista, m3cot, mmstar, mmbench, ai2d, mathverse, mmmu)
}
PAPER = ("mathvista", "m3cot", "mmstar-r", "mmbench-r", "ai2d")
"""Those of the paper's average."""
