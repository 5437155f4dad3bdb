"""What `make bench` measures: one function in one file for each row, all giving the same record.

To add a row: write `jobs/benches/<file>.py` with a function from `Options` to `Result` (see
`jobs.benches.record`), and name it here. Files are imported only when their row is measured.
"""

from __future__ import annotations

BENCHES: dict[str, str] = {
    "imports": "jobs.benches.imports:imports",
    "generation": "jobs.benches.generation:generation",
    "generation-deterministic": "jobs.benches.generation:generation",
    "learner": "jobs.benches.learner:learner",
    "learner-deterministic": "jobs.benches.learner:learner",
    "shards": "jobs.benches.durability:shards",
    "ledger": "jobs.benches.durability:ledger_cost",
    "replay": "jobs.benches.durability:replay",
    "replay-memory": "jobs.benches.durability:replay",
    "driver-memory": "jobs.benches.durability:driver_memory",
    "restart": "jobs.benches.restart:restart",
    "scoring": "jobs.benches.scoring:scoring",
    "scoring-reuse": "jobs.benches.scoring:scoring_reuse",
}
