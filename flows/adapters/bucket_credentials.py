"""Who opens a bucket: the short-lived credentials of this run, else the site's declared ones, else the identity of the machine."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flows.adapters import step_credentials
from flows.adapters.buckets import secret_of
from flows.adapters.settings import variables
from flows.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.adapters.settings import SiteConnection

AWS = {"access_key": "aws_access_key_id", "secret_key": "aws_secret_access_key", "session_token": "aws_session_token"}
"""What S3 credentials are called in a site's declaration, and by AWS's client."""


def s3_session(connection: SiteConnection) -> dict[str, str]:
    """Arguments of `boto3.session.Session`; none: the environment, the container's or the machine's role."""
    own = _of_this_run(connection)
    if own is not None:
        now = own.get_frozen_credentials()
        return {"aws_access_key_id": now.access_key, "aws_secret_access_key": now.secret_key, "aws_session_token": now.token}
    found = secret_of(connection)
    if found is None:
        return {}
    if not {"access_key", "secret_key"} <= set(found) <= set(AWS):
        raise UserError(
            "the site's `credentials` are none of S3", field="TRADEWIND_SITES", expected="`access_key`, `secret_key`, maybe `session_token`"
        )
    return {AWS[name]: str(value) for name, value in found.items()}


def aws_session(connection: SiteConnection) -> Any:
    """A session of AWS's client, whose short-lived credentials are renewed while the run goes on."""
    import boto3
    import botocore.session

    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    own = _of_this_run(connection)
    if own is None:
        return boto3.session.Session(botocore_session=session, **s3_session(connection))  # type: ignore[arg-type]
    session._credentials = own  # the only way in for credentials that renew themselves
    return boto3.session.Session(botocore_session=session)


@functools.cache
def _loader() -> Any:
    """AWS's description of its interfaces, read once a process: it takes longer than a request."""
    import botocore.loaders

    return botocore.loaders.create_loader()


def _of_this_run(connection: SiteConnection) -> Any:
    """What this run asked for; None: nobody asked, or the store gives nothing short-lived."""
    asked = step_credentials.current()
    return None if asked is None else asked.held(connection)


def s3_endpoint(connection: SiteConnection) -> str | None:
    """The address of the object store; None: AWS's own."""
    return connection.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def s3_region() -> str:
    """The region that requests are signed for; AWS answers with a bucket's own one, and the client follows."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def gcs_endpoint(connection: SiteConnection) -> str | None:
    """The address of an emulator; None: Google's own."""
    found = connection.endpoint or os.environ.get("STORAGE_EMULATOR_HOST")
    return found if found is None or "://" in found else f"http://{found}"


def gcs_credentials(connection: SiteConnection) -> Any:
    """Credentials of Google's library; None: the machine's identity."""
    own = _of_this_run(connection)
    if own is not None:
        return own
    found = secret_of(connection)
    if found is not None:
        from google.oauth2 import service_account

        try:
            return service_account.Credentials.from_service_account_info(found)  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise UserError("the site's `credentials` are none of a service account", field="TRADEWIND_SITES") from error
    if gcs_endpoint(connection) is not None:
        from google.auth.credentials import AnonymousCredentials

        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    return None


def arrow_options(connection: SiteConnection) -> dict[str, Any]:
    """Arguments of Arrow's filesystem for the bucket of a site."""
    from datetime import timedelta

    if connection.url.startswith("s3://"):
        given = {name: value for name, aws in AWS.items() if (value := s3_session(connection).get(aws))}
        return {**given, "region": s3_region(), "request_timeout": 30, "connect_timeout": 5, **_over(s3_endpoint(connection))}
    import google.auth.transport.requests
    from google.auth.credentials import with_scopes_if_required

    options: dict[str, Any] = {"retry_time_limit": timedelta(seconds=60), **_over(gcs_endpoint(connection))}
    if "endpoint_override" in options:
        return {**options, "anonymous": True}
    if (credentials := gcs_credentials(connection)) is not None:
        scoped = with_scopes_if_required(credentials, ["https://www.googleapis.com/auth/devstorage.read_write"])
        if not scoped.valid:
            scoped.refresh(google.auth.transport.requests.Request())
        options |= {"access_token": scoped.token, "credential_token_expiration": scoped.expiry}
    return options


@contextlib.contextmanager
def mlflow_clients(connection: SiteConnection) -> Iterator[None]:
    """Let MLflow's own clients open a site's bucket as this run does: S3's by variables, Google's by a client that it is handed."""
    with variables(**environment(connection)):
        own = _of_this_run(connection) if connection.url.startswith("gs://") else None
        if own is None:
            yield
            return
        from google.cloud import storage
        from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories

        known = get_registered_artifact_repositories()
        before: Any = known["gs"]
        handed: Any = lambda uri, **more: before(uri, client=storage.Client(project="tradewind", credentials=own), **more)  # noqa: E731
        known["gs"] = handed
        try:
            yield
        finally:
            known["gs"] = before


def environment(connection: SiteConnection) -> dict[str, str]:
    """What MLflow's client for S3 needs to know of a site."""
    if not connection.url.startswith("s3://"):
        return {}
    found = {name.upper(): value for name, value in s3_session(connection).items() if value}
    if (endpoint := s3_endpoint(connection)) is not None:
        found |= {"MLFLOW_S3_ENDPOINT_URL": endpoint, "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path"}
    if connection.kms_key:
        found["MLFLOW_S3_UPLOAD_EXTRA_ARGS"] = json.dumps({"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": connection.kms_key})
    return {**found, "AWS_DEFAULT_REGION": s3_region()}


def _over(endpoint: str | None) -> dict[str, str]:
    if endpoint is None:
        return {}
    parts = urlsplit(endpoint)
    return {"scheme": parts.scheme, "endpoint_override": parts.netloc}
