"""Prove what a run did: `mstar-ray audit out/tiny`.

Every hash and every link of the run is checked, offline: ledger, snapshots, shards, policies,
checkpoints, images, that nothing but the plan was sampled, scored, selected and trained on, and
that a process reward model learned what its completions say. Nothing is changed; a running driver
is not disturbed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from actors.stages.decoders import PolicyDecoders
from actors.supervision.node_cache import job_folder
from jobs.runtime.cli import command
from jobs.runtime.stores import find_run
from pipeline.audit.run import Report, audit
from pipeline.errors import CorruptObject
from pipeline.prm.labels import Decode
from pipeline.refs import PolicyRef
from pipeline.storage.backend import printable
from pipeline.storage.models import check_trusted
from pipeline.storage.store import Store
from pipeline.storage.tree_cache import TreeCache
from pipeline.storage.trees import check_tree


def audit_run(place: str, run: str | None = None, *, trusted: bool = False) -> bool:
    """Check a run and say what is wrong with it; whether nothing is.

    trusted: let code of the run's policies be run, where their tokens cannot be read without.

    Raises:
        BadModel: they cannot, and it may not.
    """
    stored = find_run(place, run)
    report = whole_audit(stored.store, stored.name, trusted=trusted)
    _show(report)
    return report.clean


def whole_audit(store: Store, run: str, *, trusted: bool = False) -> Report:
    """An audit that can read the tokens of the run's policies. trusted: as `audit_run` takes it.

    Raises:
        BadConfig, StoreError: as `pipeline.audit.run.audit`.
    """
    with job_folder(Path(tempfile.gettempdir())) as scratch:
        decoders = PolicyDecoders(store, TreeCache(scratch), trusted=trusted)

        def decoder(policy: PolicyRef) -> Decode:
            # What is damaged would be moved away by fetching it, and an audit changes nothing.
            if wrong := check_tree(store, policy.path):
                raise CorruptObject("; ".join(wrong))
            check_trusted(store, [policy], trusted)
            return decoders(policy)

        return audit(store, run, decoder)


def _show(report: Report) -> None:
    state = "finished" if report.finished else "not finished"
    print(
        f"run {report.run}: {report.entries} ledger entries, {report.events} events, "
        f"{report.objects} objects read and hashed; {state}"
    )
    for note in report.notes:
        print(f"  note: {note}")
    for problem in report.problems:
        print(f"  {printable(str(problem))}")
    print("clean" if report.clean else f"{len(report.problems)} problems")


if __name__ == "__main__":
    command("audit")
