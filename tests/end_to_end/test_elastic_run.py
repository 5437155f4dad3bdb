"""A submitted job on a cluster whose nodes come, go and are killed ends as the same run alone does;
`make elastic`, with one iteration."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.elastic.__main__ import elastic, holds
from tests.support.s3_servers import aws_environment


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_run_on_nodes_that_come_and_go_is_the_same_run(tmp_path: Path) -> None:
    with aws_environment({}):
        found = elastic(tmp_path / "runs", "elastic", ["evolve.iterations=1"])
    assert holds(found), found
