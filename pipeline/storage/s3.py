"""Objects of an S3 bucket, or of any server that speaks S3, through s3fs.

What always holds: credentials, region and endpoint come from the standard AWS chain (environment,
shared files, instance role; `AWS_ENDPOINT_URL` names another server) and from nowhere else, and
no message repeats them. Every body that is sent carries its MD5, so a server refuses what was
damaged on the way. s3fs and botocore try once: all waiting is `pipeline.storage.store.Store`'s.

Whether the server honours create-only writes (`If-None-Match: *`) is found by trying. Where it does
not, `create` looks first and writes then: two writers can meet between the two.

s3fs does not survive a fork: the file system is built by the first call in each process.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import StoreError, StoreMissing, StoreRefused, StoreUnavailable
from pipeline.storage.backend import Attempt, Entry, StoreFull

if TYPE_CHECKING:
    from s3fs import S3FileSystem

Result = TypeVar("Result")

PART_BYTES = 16 << 20
"""Size of the parts that a large file is uploaded in, `PARALLEL_PARTS` at a time."""

PARALLEL_PARTS = 4
_UPLOADS = 3

_CONFIG: dict[str, Any] = {
    # servers that do not know the newer checksums fail multipart reads with them
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
    "retries": {"total_max_attempts": 1},
    "connect_timeout": 10,
    "read_timeout": 60,
    "max_pool_connections": 32,
}

_ASK_AGAIN_CODES = {
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "Throttling",
    "OperationAborted",
    "ConditionalRequestConflict",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
}
_FULL_CODES = {
    "InsufficientStorage",
    "XMinioStorageFull",
    "QuotaExceeded",
    "XMinioAdminBucketQuota",
}


# The credentials were right once: what to do is another than for wrong ones.
_EXPIRED_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "RequestExpired",
    "TokenRefreshRequired",
}
# The bucket is elsewhere than the request was sent, or was signed for.
_REDIRECT_CODES = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}


class _Exists(StoreRefused):
    """A conditional write found an object there."""


class _NotThere(StoreRefused):
    """The server does not know what was asked for."""


_NO_IDENTITY = (
    "no AWS credentials found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
    "or give the machine a role"
)


def _md5(data: bytes) -> str:
    """What the server checks a body against on its arrival."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _response(error: BaseException | None) -> dict[str, Any] | None:
    """The server's answer inside a chain of exceptions, None when it never answered."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response
        error = error.__cause__
    return None


def answer_error(response: dict[str, Any], what: str) -> StoreError:
    """The store error that an S3 error answer stands for."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{what}: the server said {status} {code}".rstrip()
    if code == "NoSuchBucket":
        return StoreRefused(f"{said}. Make the bucket, or correct its name.")
    if status == 404:
        return StoreMissing(f"{what}: no such object")
    if status == 412:
        return _Exists(f"{said}: there is an object already")
    if status == 501:
        return _NotThere(f"{said}: this server lacks what was asked of it")
    if status == 507 or code in _FULL_CODES:
        return StoreFull(f"{said}. Free some space there, then start the same command again.")
    if status >= 500 or status in (408, 409, 429) or code in _ASK_AGAIN_CODES:
        return StoreUnavailable(said)
    return StoreRefused(f"{said}{_refusal_advice(status, code, response)}")


def _refusal_advice(status: int, code: str, response: dict[str, Any]) -> str:
    if code in _EXPIRED_CODES:
        return (
            ". These credentials have expired, or their session token is not theirs: renew them "
            "(AWS_SESSION_TOKEN, or aws sso login), then start the same command again."
        )
    if status in (301, 307) or code in _REDIRECT_CODES:
        return f". {_other_region(response)}"
    if status in (401, 403):
        return (
            ". Check the credentials of the standard AWS chain (environment, AWS_PROFILE, role), "
            "the bucket's policy and this machine's clock."
        )
    return ""


def _other_region(response: dict[str, Any]) -> str:
    """Where the bucket is, as far as the answer says: in its body, or, to a HEAD, in a header."""
    error, headers = response.get("Error", {}), response["ResponseMetadata"].get("HTTPHeaders", {})
    region = error.get("Region") or headers.get("x-amz-bucket-region")
    endpoint = error.get("Endpoint")
    if region:
        return f"The bucket is in the region {region}: set AWS_DEFAULT_REGION={region}."
    if endpoint:
        return (
            f"The bucket answers at {endpoint}: set AWS_DEFAULT_REGION to its region, or "
            "AWS_ENDPOINT_URL to its server."
        )
    return "The bucket is in another region: set AWS_DEFAULT_REGION to that."


def silence_error(error: Exception, what: str) -> StoreError | None:
    """The store error for a failure without an answer; None when it is not about the store."""
    import aiohttp
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    signed_out = (boto.SSOError, boto.TokenRetrievalError)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return StoreRefused(f"{what}: {_NO_IDENTITY}.")
    if isinstance(error, signed_out):
        return StoreRefused(
            f"{what}: the sign-in of this AWS profile has expired (aws sso login renews it)."
        )
    if isinstance(error, boto.ProfileNotFound | boto.NoRegionError | boto.InvalidRegionError):
        return StoreRefused(f"{what}: {error}")
    away = (
        boto.ConnectionError,
        boto.HTTPClientError,
        boto.IncompleteReadError,
        boto.ResponseStreamingError,
        boto.CredentialRetrievalError,
        boto.MetadataRetrievalError,
        ResponseParserError,
        aiohttp.ClientError,
        ConnectionError,
        TimeoutError,
    )
    if isinstance(error, away):
        return StoreUnavailable(f"{what}: {type(error).__name__}: no answer from the server")
    return None


@contextmanager
def _errors(what: str) -> Iterator[None]:
    import aiohttp
    from botocore.exceptions import BotoCoreError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (OSError, BotoCoreError, ResponseParserError, aiohttp.ClientError) as error:
        answer = _response(error)
        failure = silence_error(error, what) if answer is None else answer_error(answer, what)
        if failure is None:
            raise
        # the original's text can hold the signed request, so it is not chained
        raise failure from None


class S3Backend:
    """`s3://bucket/prefix`."""

    latency_bound = True

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self.part_bytes = PART_BYTES
        self._building = threading.Lock()
        self._filesystem: tuple[int, S3FileSystem] | None = None
        self._exclusive: bool | None = None

    @property
    def _s3(self) -> S3FileSystem:
        process = os.getpid()
        with self._building:
            return self._built(process)

    def _built(self, process: int) -> S3FileSystem:
        if self._filesystem is None or self._filesystem[0] != process:
            import s3fs

            filesystem = s3fs.S3FileSystem(
                skip_instance_cache=True,
                use_listings_cache=False,
                default_cache_type="none",
                config_kwargs=_CONFIG,
            )
            filesystem.retries = 1
            self._filesystem = (process, filesystem)
        return self._filesystem[1]

    def _name(self, path: str) -> str:
        return f"{self.bucket}/{self.prefix}{path}"

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        with _errors(f"{self.url}: {path}"):
            answer: dict[str, Any] = self._s3.call_s3(
                method, Bucket=self.bucket, Key=self.prefix + path, **arguments
            )
        return answer

    def _do(self, path: str, action: Callable[..., Result], *args: Any, **named: Any) -> Result:
        with _errors(f"{self.url}: {path}"):
            return action(*args, **named)

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        if end is not None and end <= start:
            return b""
        # one connection: s3fs would ask for the size first to split a whole read
        part = {} if start == 0 and end is None else {"start": start, "end": end}
        data: bytes = self._do(path, self._s3.cat_file, self._name(path), max_concurrency=1, **part)
        return data

    def write(self, path: str, data: bytes) -> None:
        self._put(path, data)

    def _put(self, path: str, data: bytes, **conditions: str) -> None:
        self._call("put_object", path, Body=data, ContentMD5=_md5(data), **conditions)

    def create(self, path: str, data: bytes) -> bool:
        if self.create_is_exclusive():
            return self._put_if_absent(path, data)
        if self.stat(path) is not None:
            return False
        self._put(path, data)
        return True

    def _put_if_absent(self, path: str, data: bytes) -> bool:
        try:
            self._put(path, data, IfNoneMatch="*")
        except _Exists:
            return False
        return True

    def upload(self, path: str, source: Path, attempt: Attempt) -> None:
        size = source.stat().st_size
        if size < 2 * self.part_bytes:
            attempt(self._put, path, source.read_bytes())
            return None
        for _ in range(_UPLOADS):
            try:
                return self._upload_parts(path, source, size, attempt)
            except StoreMissing:
                continue  # a server that was started anew may have forgotten the upload
        raise StoreUnavailable(f"{self.url}: {path}: the server lost the upload {_UPLOADS} times")

    def _upload_parts(self, path: str, source: Path, size: int, attempt: Attempt) -> None:
        upload = {"UploadId": attempt(self._call, "create_multipart_upload", path)["UploadId"]}
        # S3 takes 10,000 parts at most
        part_bytes = max(self.part_bytes, size // 9_999 + 1)
        starts = range(0, size, part_bytes)

        def send(number: int) -> dict[str, Any]:
            with open(source, "rb") as file:
                file.seek(starts[number])
                data = file.read(part_bytes)
            answer = attempt(self._send_part, path, upload["UploadId"], number + 1, data)
            return {"PartNumber": number + 1, "ETag": answer["ETag"]}

        try:
            with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
                parts = list(pool.map(send, range(len(starts))))
            attempt(self._complete, path, upload["UploadId"], parts, size)
        except StoreError:
            with suppress(StoreError):  # else the bucket's own rule removes it, in time
                self._call("abort_multipart_upload", path, **upload)
            raise

    def _send_part(self, path: str, upload: str, number: int, data: bytes) -> dict[str, Any]:
        return self._call(
            "upload_part",
            path,
            UploadId=upload,
            PartNumber=number,
            Body=data,
            ContentMD5=_md5(data),
        )

    def _complete(self, path: str, upload: str, parts: list[dict[str, Any]], size: int) -> None:
        try:
            self._call(
                "complete_multipart_upload",
                path,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except StoreMissing:
            # completed before, by an attempt whose answer was lost?
            entry = self.stat(path)
            if entry is None or entry.size_bytes != size:
                raise

    def stat(self, path: str) -> Entry | None:
        try:
            head = self._call("head_object", path)
        except StoreMissing:
            return None
        return Entry(path, head["ContentLength"], head["LastModified"].timestamp())

    def list(self, folder: str) -> list[Entry]:
        prefix = self.prefix + (f"{folder}/" if folder else "")
        entries: list[Entry] = []
        more: dict[str, Any] = {}
        while True:
            page = self._do(
                folder,
                self._s3.call_s3,
                "list_objects_v2",
                Bucket=self.bucket,
                Prefix=prefix,
                **more,
            )
            for item in page.get("Contents", []):
                path = item["Key"][len(self.prefix) :]
                entries.append(Entry(path, item["Size"], item["LastModified"].timestamp()))
            if not page.get("IsTruncated"):
                return sorted(entries, key=lambda entry: entry.path)
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, path: str) -> None:
        self._call("delete_object", path)

    def move(self, source: str, target: str) -> None:
        self._do(source, self._s3.cp_file, self._name(source), self._name(target))
        self.delete(source)

    def sync(self, path: str) -> None:
        """A server's answer to a PUT is its promise: nothing to add."""

    def create_is_exclusive(self) -> bool:
        if self._exclusive is None:
            path = f"probe/{secrets.token_hex(8)}"
            try:
                self._put_if_absent(path, b"first")
                self._exclusive = not self._put_if_absent(path, b"second")
                self.delete(path)
            except _NotThere:
                self._exclusive = False
        return self._exclusive
