"""What reaches the store on the driver reaches it on every worker: the AWS chain's variables.

A worker of a cluster inherits its node's environment, not the driver's. The driver's variables
travel as a function that Ray runs in each worker process before anything else; its values are in
the control store's memory for as long as the job lives, and in no runtime environment, ledger,
configuration or log: only names are ever said. What a node sets itself stays: its own role or
endpoint was chosen there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

# As botocore and s3fs read them. Credentials go together or not at all: half of a pair of two
# origins opens nothing.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

CHAIN = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
    "AWS_METADATA_SERVICE_TIMEOUT",
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
    "AWS_SDK_LOAD_CONFIG",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_MAX_ATTEMPTS",
    "AWS_RETRY_MODE",
)


def chain_names(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The names of the variables that workers are given: those that are set here."""
    return [name for name in (*CREDENTIALS, *CHAIN) if name in environment]


def environment_hook(environment: Mapping[str, str] = os.environ) -> Callable[[], None]:
    """What Ray runs in each worker process: a function that holds the values, and shows none.

    It travels by value, and imports nothing of ours: a worker runs it before it has our code.
    """
    credentials = {name: environment[name] for name in CREDENTIALS if name in environment}
    chain = {name: environment[name] for name in CHAIN if name in environment}

    def set_store_environment() -> None:
        import os

        if not any(name in os.environ for name in credentials):
            os.environ.update(credentials)
        for name, value in chain.items():
            os.environ.setdefault(name, value)

    set_store_environment.__module__ = "__main__"  # so that it is pickled by value
    return set_store_environment
