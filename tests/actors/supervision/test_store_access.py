"""What a node says that the store refuses, and that it works where it does not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from actors.supervision.failures import call
from actors.supervision.store_access import reach_store
from pipeline.errors import BadConfig
from pipeline.storage.store import open_store
from tests.support.s3_servers import BUCKET, aws_environment, rclone_server


def test_a_store_that_answers_is_given_back(tmp_path: Path) -> None:
    with rclone_server(tmp_path / "s3"):
        store = reach_store(open_store(f"s3://{BUCKET}/x"), "an engine")
        store.put("a", b"b")
        assert store.get("a") == b"b"


def test_a_node_without_credentials_is_named_with_its_role(tmp_path: Path) -> None:
    with rclone_server(tmp_path / "s3") as server:
        endpoint = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": "us-east-1"}
        with aws_environment(endpoint), pytest.raises(BadConfig) as caught:
            reach_store(open_store(f"s3://{BUCKET}/x"), "an engine")
        message = str(caught.value)
        assert message.startswith(f"an engine on node {socket.gethostname()}: s3://{BUCKET}/x: ")
        assert "credentials" in message
        assert "\n" not in message


def test_wrong_credentials_are_a_failure_that_a_person_mends(tmp_path: Path) -> None:
    with rclone_server(tmp_path / "s3") as server:
        wrong = {**server.keys_environment(), "AWS_SECRET_ACCESS_KEY": "wrong"}
        with aws_environment(wrong):
            failure = call(reach_store, open_store(f"s3://{BUCKET}/x"), "rank 0").failure
        assert failure is not None
        assert failure.kind == "user"
        assert failure.reason.startswith("rank 0 on node ")
