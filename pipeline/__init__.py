"""What a run is and what it does next: every decision, pure, with nothing started.

`PACKAGES` is the order of what is in here, bottom to top: each imports only those before it, and a
test names the line that breaks this. Importing any of it loads none of ray, torch, vllm,
transformers, deepspeed, sympy or s3fs.
"""

from __future__ import annotations

PACKAGES = (
    # nouns: one word, one class, imported by everyone
    "errors", "hashing", "refs", "responses", "answer_shapes", "query",
    "image_limits", "model_settings",
    # bytes, parquet, what is stored; the manual of all settings
    "storage", "records", "prompts", "config",
    "metrics", "grading", "datasets", "selection", "generation", "training", "tasks",
    # what a run is and what it has done
    "run",
    # what is done with one shard; the decisions of a process reward model
    "stages", "prm",
    # what comes next
    "phases",
    "reports", "plan", "audit", "simulation", "ablation",
    # does it
    "driver",
)  # fmt: skip
