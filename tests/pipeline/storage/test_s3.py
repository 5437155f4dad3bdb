"""S3: credentials, refusals and absences told apart, a server that dies, two drivers that race."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.s3 import LocalS3, command_line, free_port
from pipeline.errors import BadConfig, StoreMissing, StoreRefused, StoreUnavailable, UserError
from pipeline.run.lease import Lease
from pipeline.run.ledger import Ledger, LedgerFenced
from pipeline.storage.backend import StoreFull
from pipeline.storage.s3 import S3Backend, answer_error, silence_error
from pipeline.storage.store import Store, check_writable, open_store
from pipeline.storage.trees import file_sha256
from tests.support.s3_servers import (
    BUCKET,
    aws_environment,
    bucket_store,
    moto_server,
    rclone_server,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def rclone_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalS3]:
    with rclone_server(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture
def rclone(rclone_process: LocalS3) -> Iterator[LocalS3]:
    with aws_environment(rclone_process.environment()):
        yield rclone_process


@pytest.fixture(scope="module")
def moto_process() -> Iterator[dict[str, str]]:
    with moto_server() as environment:
        yield environment


@pytest.fixture
def moto(moto_process: dict[str, str]) -> Iterator[None]:
    with aws_environment(moto_process):
        yield


def answer(status: int, code: str = "") -> dict[str, object]:
    return {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", StoreMissing),
        (404, "404", StoreMissing),
        (404, "NoSuchBucket", StoreRefused),
        (403, "AccessDenied", StoreRefused),
        (403, "ExpiredToken", StoreRefused),
        (400, "InvalidArgument", StoreRefused),
        (400, "BadDigest", StoreUnavailable),
        (400, "RequestTimeout", StoreUnavailable),
        (409, "ConditionalRequestConflict", StoreUnavailable),
        (409, "OperationAborted", StoreUnavailable),
        (429, "TooManyRequests", StoreUnavailable),
        (500, "InternalError", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (507, "InsufficientStorage", StoreFull),
        (507, "XMinioStorageFull", StoreFull),
    ],
)
def test_answers_are_told_apart(status: int, code: str, kind: type[Exception]) -> None:
    error = answer_error(answer(status, code), "s3://bucket: x")
    assert type(error) is kind
    assert "s3://bucket: x" in str(error)


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"])
@pytest.mark.parametrize("status", [400, 403])
def test_expired_credentials_are_named_as_such(status: int, code: str) -> None:
    error = answer_error(answer(status, code), "s3://bucket: x")
    assert type(error) is StoreRefused
    assert f"the server said {status} {code}. These credentials have expired" in str(error)
    assert "start the same command again" in str(error)


REDIRECTS: list[tuple[int, dict[str, str], dict[str, str], str]] = [
    (400, {"Code": "AuthorizationHeaderMalformed", "Region": "eu-west-1"}, {}, "eu-west-1"),
    (301, {"Code": "PermanentRedirect"}, {"x-amz-bucket-region": "eu-west-3"}, "eu-west-3"),
    # HEAD has no body
    (301, {"Code": "301"}, {"x-amz-bucket-region": "us-west-2"}, "us-west-2"),
    (307, {"Code": "TemporaryRedirect"}, {"x-amz-bucket-region": "us-east-2"}, "us-east-2"),
]


@pytest.mark.parametrize(("status", "error", "headers", "region"), REDIRECTS)
def test_a_wrong_region_is_named_with_the_right_one(
    status: int, error: dict[str, str], headers: dict[str, str], region: str
) -> None:
    response = {
        "Error": error,
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    refused = answer_error(response, "s3://bucket: x")
    assert type(refused) is StoreRefused
    assert f"in the region {region}: set AWS_DEFAULT_REGION={region}." in str(refused)


def test_a_redirect_without_a_region_names_its_endpoint() -> None:
    error = {"Code": "PermanentRedirect", "Endpoint": "bucket.s3.eu-west-1.amazonaws.com"}
    response = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 301}}
    assert "answers at bucket.s3.eu-west-1.amazonaws.com" in str(answer_error(response, "x"))
    bare = answer_error(answer(301, "PermanentRedirect"), "x")
    assert "in another region: set AWS_DEFAULT_REGION" in str(bare)


class Redirecting(BaseHTTPRequestHandler):
    """A server whose bucket is in another region, as S3 says so."""

    def do_PUT(self) -> None:
        body = (
            b"<?xml version='1.0'?><Error><Code>AuthorizationHeaderMalformed</Code>"
            b"<Message>the region is wrong</Message><Region>eu-central-1</Region></Error>"
        )
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


def test_a_wrong_region_is_found_before_a_run_starts() -> None:
    """Over the wire: what botocore makes of the answer keeps the region."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with (
            aws_environment(keys | {"AWS_ENDPOINT_URL": url}),
            pytest.raises(BadConfig, match="AWS_DEFAULT_REGION=eu-central-1"),
        ):
            check_writable(open_store(f"s3://{BUCKET}/x", 5.0))
    finally:
        server.shutdown()
        server.server_close()


def test_silences_are_told_apart() -> None:
    from botocore import exceptions as boto

    url = "http://127.0.0.1:1"
    for away in (
        boto.EndpointConnectionError(endpoint_url=url),
        boto.ReadTimeoutError(endpoint_url=url),
        boto.ConnectionClosedError(endpoint_url=url),
        ConnectionResetError(),
        TimeoutError(),
    ):
        assert isinstance(silence_error(away, "x"), StoreUnavailable)
    refused = silence_error(boto.NoCredentialsError(), "x")
    assert isinstance(refused, StoreRefused)
    assert "AWS_ACCESS_KEY_ID" in str(refused)
    signed_out = silence_error(boto.UnauthorizedSSOTokenError(), "x")
    assert isinstance(signed_out, StoreRefused)
    assert "aws sso login" in str(signed_out)
    assert silence_error(FileNotFoundError("/a/local/file"), "x") is None


def test_a_local_file_that_is_missing_is_not_the_stores_fault(rclone: LocalS3) -> None:
    with pytest.raises(FileNotFoundError):
        bucket_store("missing").put_file("x", Path("/no/such/file"), "0" * 64)


# --- credentials ----------------------------------------------------------------------------------


def test_wrong_keys_are_refused_at_once_and_never_repeated(rclone: LocalS3) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIAWRONGWRONG", "AWS_SECRET_ACCESS_KEY": "verysecretsecret"}
    said: list[str] = []
    with aws_environment(keys | {"AWS_ENDPOINT_URL": rclone.endpoint}):
        store = open_store(f"s3://{BUCKET}/keys", 60.0, say=said.append)
        with pytest.raises(BadConfig, match="InvalidAccessKeyId") as caught:
            check_writable(store)
        assert not any("InvalidAccessKeyId" in line for line in said), "a refusal is not retried"
    text = f"{caught.value} {caught.value.__cause__!r} {said} {store.url} {pickle.dumps(store)!r}"
    assert "AKIAWRONGWRONG" not in text
    assert "verysecretsecret" not in text
    assert "credentials" in text


def test_no_keys_at_all_is_a_clear_error(rclone: LocalS3) -> None:
    store = open_store(f"s3://{BUCKET}/keys", 60.0)
    nobody = aws_environment({"AWS_ENDPOINT_URL": rclone.endpoint})
    with nobody, pytest.raises(BadConfig, match="no AWS credentials found"):
        check_writable(store)


def test_a_bucket_that_is_not_there_is_a_clear_error(rclone: LocalS3) -> None:
    with pytest.raises(BadConfig, match=r"NoSuchBucket\. Make the bucket"):
        check_writable(open_store("s3://no-such-bucket/x", 60.0))


def test_a_pickled_store_carries_no_key(rclone: LocalS3) -> None:
    store = bucket_store("pickled")
    store.put("x", b"1")
    travelling = pickle.dumps(store)
    secret = rclone.credentials_file.read_text().split("aws_secret_access_key = ")[1].strip()
    assert secret.encode() not in travelling
    assert len(secret) == 40
    assert pickle.loads(travelling).get("x") == b"1"  # noqa: S301


# --- conditional writes ---------------------------------------------------------------------------


def test_rclone_ignores_conditions_and_the_store_knows(rclone: LocalS3) -> None:
    store = bucket_store("conditions")
    assert not store.conditional_writes()
    assert store.create("x", b"first")
    assert not store.create("x", b"second")
    assert store.get("x") == b"first"


def test_of_many_racing_creates_one_wins_where_conditions_hold(moto: None) -> None:
    stores = [bucket_store("race") for _ in range(4)]
    assert stores[0].conditional_writes()
    together = threading.Barrier(len(stores))
    won: dict[int, list[bool]] = {}

    def race(number: int) -> None:
        won[number] = []
        for attempt in range(5):
            together.wait(60.0)
            won[number].append(stores[number].create(f"entry-{attempt}", b"%d" % number))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for attempt in range(5):
        winners = [number for number in won if won[number][attempt]]
        assert len(winners) == 1
        assert stores[0].get(f"entry-{attempt}") == b"%d" % winners[0]


class LostAnswers(S3Backend):
    """The first write to each path given arrives; its answer is lost on the way back."""

    def __init__(self, bucket: str, prefix: str, to_lose: set[str]) -> None:
        super().__init__(bucket, prefix)
        self.to_lose = to_lose

    def _put(self, path: str, data: bytes, **conditions: str) -> None:
        super()._put(path, data, **conditions)
        if path in self.to_lose:
            self.to_lose.remove(path)
            raise StoreUnavailable("the answer was lost")


def test_my_own_success_that_comes_back_as_a_refusal_is_a_success(moto: None) -> None:
    backend = LostAnswers(BUCKET, "lost", {"entry"})
    store = Store(backend, sleep=lambda seconds: None, say=lambda line: None)
    assert store.create("entry", b"mine, nonce 1")
    assert backend.to_lose == set()
    assert not store.create("entry", b"theirs, nonce 2")


def test_a_run_is_taken_over_on_both_kinds_of_server(moto: None, tmp_path: Path) -> None:
    def take_over() -> None:
        store = bucket_store(f"drivers-{tmp_path.name}")
        leases = [Lease(store, "run") for _ in range(2)]
        ledgers = [Ledger(store, "run", nonce=one.nonce, guard=one.check) for one in leases]
        leases[0].acquire()
        ledgers[0].claim({"type": "driver_started", "driver": 0}, lambda event: None)
        ledgers[0].append([{"type": "shard_accepted", "n": n} for n in range(3)])
        leases[1].acquire(take_over=True)
        list(ledgers[1].resume()[1])
        ledgers[1].claim({"type": "driver_started", "driver": 1}, lambda event: None)
        with pytest.raises(LedgerFenced):
            ledgers[0].append([{"type": "shard_accepted", "n": 3}])
        ledgers[1].append([{"type": "shard_accepted", "n": 3}])
        events = list(Ledger(store, "run").replay())
        assert [event.get("n") for event in events] == [None, 0, 1, 2, None, 3]

    take_over()
    with rclone_server(tmp_path):
        take_over()


# --- a server that goes away ----------------------------------------------------------------------


def test_a_store_that_is_gone_for_a_while_is_waited_for(tmp_path: Path) -> None:
    with rclone_server(tmp_path) as server:
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            if len(said) == 1:
                server.start()

        store = open_store(f"s3://{BUCKET}/gone", 120.0, say=say)
        store.put("before", b"1")
        server.stop(kill=True)
        store.put("during", b"2")
        assert store.list() == ["before", "during"]
        assert "does not answer" in said[0]


def test_a_store_that_stays_away_ends_the_patience(tmp_path: Path) -> None:
    with rclone_server(tmp_path) as server:
        store = Store(S3Backend(BUCKET), patience_s=5.0, sleep=lambda _: None, say=lambda _: None)
        store.put("x", b"1")
        server.stop(kill=True)
        with pytest.raises(StoreUnavailable, match="no answer from the server"):
            store.get("x")


class Cut(S3Backend):
    """The server dies when the first part of an upload has arrived, others on their way."""

    def __init__(self, server: LocalS3) -> None:
        super().__init__(BUCKET)
        self.part_bytes = 5 << 20
        self._server = server
        self._deciding = threading.Lock()
        self.arrived = 0

    def _call(self, method: str, path: str, **arguments: object) -> dict[str, object]:
        answer = super()._call(method, path, **arguments)
        if method == "upload_part":
            with self._deciding:
                self.arrived += 1
                if self.arrived == 1:
                    self._server.stop(kill=True)
        return answer


def test_an_upload_cut_by_the_servers_death_shows_nothing(tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(24 << 20))
    with rclone_server(tmp_path / "server") as server:
        backend = Cut(server)
        store = Store(backend, patience_s=0.0, say=lambda _: None)
        store.put("small", b"1")
        with pytest.raises(StoreUnavailable):
            store.put_file("large", source, file_sha256(source))
        assert backend.arrived
        server.start()
        assert store.stat("large") is None
        assert store.list() == ["small"]


class Clumsy(S3Backend):
    """Loses the answer of every kind of call once; `forgets`: the server loses the first upload."""

    def __init__(self, prefix: str, forgets: bool = False) -> None:
        super().__init__(BUCKET, prefix)
        self.part_bytes = 5 << 20
        self.forgets = forgets
        self.lost: list[str] = []

    def _call(self, method: str, path: str, **arguments: object) -> dict[str, object]:
        if self.forgets and method == "complete_multipart_upload":
            self.forgets = False
            super()._call("abort_multipart_upload", path, UploadId=arguments["UploadId"])
        answer = super()._call(method, path, **arguments)
        if method not in self.lost:
            self.lost.append(method)
            raise StoreUnavailable(f"the answer to {method} was lost")
        return answer


def arrives(prefix: str, folder: Path, forgets: bool) -> Clumsy:
    source = folder / "large"
    source.write_bytes(os.urandom((12 << 20) + 1))
    backend = Clumsy(prefix, forgets)
    store = Store(backend, sleep=lambda _: None, say=lambda _: None)
    store.put_file("large", source, file_sha256(source))
    assert store.hash_of("large") == file_sha256(source)
    return backend


def test_a_large_file_arrives_whatever_answer_is_lost(moto: None, tmp_path: Path) -> None:
    steps = {"create_multipart_upload", "upload_part", "complete_multipart_upload"}
    assert steps <= {*arrives("clumsy", tmp_path, forgets=False).lost}


def test_a_large_file_arrives_when_the_server_forgets_half_of_it(
    rclone: LocalS3, tmp_path: Path
) -> None:
    assert not arrives("forgets", tmp_path, forgets=True).forgets


# --- the local server -----------------------------------------------------------------------------


def test_the_server_keeps_its_keys_to_itself(rclone: LocalS3) -> None:
    assert rclone.credentials_file.stat().st_mode & 0o777 == 0o600
    secret = rclone.credentials_file.read_text().split("aws_secret_access_key = ")[1].strip()
    assert secret not in command_line(rclone)
    listening = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "serve s3" in listening.stdout
    assert secret not in listening.stdout


def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="is in use"):
            LocalS3(tmp_path, port=taken.getsockname()[1]).start()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_make_s3_serves_prints_the_line_and_dies_whole(tmp_path: Path, end: signal.Signals) -> None:
    port = free_port()
    command = [sys.executable, "-m", "cluster.s3", "--folder", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        assert f"AWS_ENDPOINT_URL=http://127.0.0.1:{port}" in said
        assert "store.url=s3://mstar/store" in said
        with aws_environment(LocalS3(tmp_path, port=port).environment()):
            check_writable(open_store("s3://mstar/store"))
        process.send_signal(end)
        process.wait(30.0)
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.05)
    pytest.fail("the server survived")
