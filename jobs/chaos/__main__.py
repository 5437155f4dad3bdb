"""Nothing is ever lost: a run that is killed again and again ends with the same bits.

    make chaos                     # or: mstar-ray chaos [--kills 3] [--seed 0]

On a local S3 server (which is itself killed), from one small deterministic recipe: a run that
nobody disturbs, and one, in a store of its own, that is killed at every stage x victim while the
victim works and in every crash window, and started again by the same command each time; what it was
too short for, another one meets. All must have selected the same rows and end with the same weights
and moments, bit for bit, those of the process reward model and its labels and scores included; no
accepted shard may be generated twice; after every kill the run must go on; while the store was away
it must have said so; the audit must be clean; no process may survive. Two controls must come out
different: another seed, and one shard dropped from what an iteration trains on. Under `make chaos`
the driver's state machine then runs over `--examples` (5,000) examples.

Writes <out>/chaos.json and exits with 1 when anything of this does not hold.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.s3 import LocalS3
from cluster.s3_proxy import S3Proxy
from jobs.audit import whole_audit
from jobs.chaos.plan import Kill, plan
from jobs.chaos.runs import Bed, beside, meaning
from jobs.runtime.cli import command, say, write_json
from jobs.runtime.prepare import versions
from pipeline.datasets.dataset import check_writable

ROOT = Path(__file__).resolve().parents[2]

STATE_MACHINE = "MSTAR_STATE_MACHINE"
"""The command that tests the driver's state machine over as many examples as MSTAR_EXAMPLES says:
`make chaos` gives it, since it belongs to the source tree and not to this package."""

FEWEST = 25
"""Kills that a whole plan has at least."""

# The last things a run does: after a kill in them, no shard need follow.
LAST = ("control/learn", "evaluate")


def run_chaos(
    recipe: str,
    changes: list[str],
    kills: int | None,
    seed: int,
    examples: int,
    *,
    controls: bool,
    out: Path,
) -> bool:
    """Kill a run until nothing is left to be killed, and compare; whether everything holds."""
    check_writable(out)
    found = chaos(
        out / "chaos-runs", recipe, changes, plan(seed, kills), seed=seed, controls=controls
    )
    if examples:
        found["examples"] = examples
        found["state_machine"] = state_machine(examples)
    found["fewest_kills"] = min(kills or FEWEST, FEWEST)
    found["ok"] = holds(found)
    path = out / "chaos.json"
    write_json(path, found)
    say(f"{'all of it holds' if found['ok'] else 'IT DOES NOT HOLD'}; {path}")
    return bool(found["ok"])


def holds(found: dict[str, Any]) -> bool:
    """Everything that must be so; what was left out is None."""
    wanted = ("identical", "controls_differ", "audit_clean", "state_machine")
    unwanted = ("missed", "generated_twice", "survivors")
    kills = found["kills"]
    return (
        all(found.get(key) is not False for key in wanted)
        and not any(map(found.get, unwanted))
        and len(kills) >= found["fewest_kills"]
        and all(map(went_on, kills))
        and (found["store_said_away"] or all(one["victim"] != "store" for one in kills))
    )


def went_on(kill: dict[str, Any]) -> bool:
    """Whether the run did something after a kill, and made shards where more were to come."""
    if kill["next_event_s"] is None:
        return False
    return kill["next_shard_s"] is not None or kill["stage"] in LAST


def chaos(
    folder: Path,
    config: str,
    changes: list[str],
    kills: list[Kill],
    *,
    seed: int,
    controls: bool,
) -> dict[str, Any]:
    """The runs and what they show."""
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)  # every run begins in an empty store
    with LocalS3(folder / "s3") as server, S3Proxy(server.endpoint) as proxy:
        os.environ.update(server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint})
        bed = Bed(folder, server, proxy, config=config, changes=changes, say=say)
        say("a run that nobody disturbs")
        # Of which a control goes on from the middle: what the run itself needs no more is kept.
        bed.undisturbed("reference", "learn.keep_checkpoints=true")
        rounds, left = killed_until_done(bed, kills, seed)
        return together(rounds) | {
            "controls_differ": controls_differ(bed) if controls else None,
            "missed": [f"{one.stage} {one.victim} {one.window}".strip() for one in left],
            "seed": seed,
            "seconds": round(time.monotonic() - started, 1),
            "versions": versions(),
        }


def killed_until_done(
    bed: Bed,
    kills: list[Kill],
    seed: int,
    compare: Callable[[Bed, str], dict[str, Any]] | None = None,
) -> tuple[list[dict[str, Any]], list[Kill]]:
    """Runs in stores of their own, until every kill was done or a run met none of them: what each
    shows, and the kills that none met. A short run is over before it can be killed everywhere."""
    rounds: list[dict[str, Any]] = []
    left = kills
    while left:
        name = f"killed-{len(rounds)}"
        say(f"{name}: the same run, to be killed {len(left)} times")
        watch, survivors, restarts = bed.killed(name, left, seed + len(rounds))
        rounds.append(
            (compare or compared)(bed, name)
            | {
                "kills": [record.to_dict() | {"run": name} for record in watch.records],
                "generated_twice": sorted(set(watch.again)),
                "survivors": survivors,
                "restarts": restarts,
                "store_said_away": "the store does not answer" in bed.log(name),
            }
        )
        if not watch.records:
            break
        left = watch.pending
    return rounds, left


def together(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all killed runs show: lists one after the other, counts added, and what has to hold of
    each holds of all."""
    found: dict[str, Any] = {"runs": len(rounds)}
    for key in ("kills", "generated_twice", "survivors"):
        found[key] = [one for shown in rounds for one in shown[key]]
    for key in ("restarts", "audited_objects", "accepted_shards"):
        found[key] = sum(shown[key] for shown in rounds)
    for key in ("identical", "audit_clean"):
        found[key] = all(shown[key] for shown in rounds)
    found["differences"] = [shown["difference"] for shown in rounds if shown["difference"]]
    found["store_said_away"] = any(shown["store_said_away"] for shown in rounds)
    return found


def compared(bed: Bed, name: str) -> dict[str, Any]:
    """A killed run beside the one that nobody disturbed, and under audit."""
    found = beside(bed.events("reference"), bed.events(name))
    if found["difference"] is not None:
        say(f"{name} differs: {found['difference']}")
    report = whole_audit(bed.store(name), bed.run)
    for problem in report.problems:
        say(f"{name}, audit: {problem}")
    return found | {"audit_clean": report.clean, "audited_objects": report.objects}


def controls_differ(bed: Bed) -> bool:
    """Whether what must come out different does: weights and moments of both controls."""
    say("a control: another seed")
    bed.undisturbed("seed", "run.seed=1")
    say("a control: one shard dropped")
    bed.without_a_shard("reference", "dropped")
    bed.undisturbed("dropped")
    reference = meaning(bed.events("reference"))
    return all(
        meaning(bed.events(name))[part] != reference[part]
        for name in ("seed", "dropped")
        for part in ("weights", "moments")
    )


def state_machine(examples: int) -> bool | None:
    """The driver over scripted workers, as often as asked: whether it held, None when left out."""
    command = os.environ.get(STATE_MACHINE)
    if command is None:
        say("the driver's state machine is left out: `make chaos` runs it, in the source tree")
        return None
    say(f"the driver's state machine over {examples} examples")
    environment = os.environ | {"MSTAR_EXAMPLES": str(examples)}
    done = subprocess.run(shlex.split(command), cwd=ROOT, env=environment, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    command("chaos")
