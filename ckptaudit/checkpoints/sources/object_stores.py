"""Buckets of S3, Google Cloud Storage and Azure, through obstore; credentials are the environment's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.sources.stores import (
    CONNECT_SECONDS,
    HEAD,
    MAX_LISTED,
    READ_SECONDS,
    Opened,
    TransientError,
    changed,
    said,
)
from ckptaudit.checkpoints.sources.urls import Url, is_loopback
from ckptaudit.errors import CheckpointError

ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT",
    "AZURITE_BLOB_STORAGE_URL", "GOOGLE_BASE_URL",
)  # fmt: skip
"""Where the environment names another server."""

ALLOW = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "ALLOW_HTTP")


class BucketStore:
    """The objects of one bucket or container."""

    def __init__(self, url: Url) -> None:
        self.url = f"{url.scheme}://{url.root}"
        try:
            import obstore
            from obstore import exceptions
        except ImportError as error:
            raise CheckpointError(
                f"{self.url}: reading from object stores needs obstore; pip install 'ckptaudit[remote]'."
            ) from error
        self._library, self._errors = obstore, exceptions
        try:
            self._store = _store(url)
        except (exceptions.BaseError, ValueError) as error:
            raise CheckpointError(
                f"{self.url}: cannot be opened ({said(error)}); check the environment."
            ) from error

    def open(self, key: str) -> Opened:
        """The object's size, ETag and first bytes, by one request."""
        try:
            found = self._get(key, {"range": (0, HEAD)})
            meta, head = found.meta, bytes(found.bytes())
        except _EmptyError:
            meta, head = self._library.head(self._store, key), b""
        except self._errors.BaseError as error:
            raise TransientError(said(error)) from error
        tag = meta["e_tag"] or str(meta["last_modified"])
        if len(head) != min(HEAD, meta["size"]):
            raise TransientError(f"{len(head):,} bytes arrived where {min(HEAD, meta['size']):,} were asked for")
        return Opened(meta["size"], tag, head, meta["version"])

    def read(self, key: str, start: int, view: memoryview, opened: Opened) -> None:
        """A range under the condition of the ETag; of a bucket that keeps versions, of that version."""
        conditions = {"if_match": opened.tag} if opened.tag.startswith('"') else {}
        if opened.version:
            conditions["version"] = opened.version
        found = self._get(key, {"range": (start, start + len(view)), **conditions}, opened)
        meta = found.meta
        tag = meta["e_tag"] or str(meta["last_modified"])
        if (tag, meta["size"]) != (opened.tag, opened.size):
            raise changed(f"{self.url}/{clipped(key)}", opened.tag, tag)
        try:
            body = memoryview(found.bytes())
        except self._errors.BaseError as error:
            raise TransientError(said(error)) from error
        if found.range != (start, start + len(view)) or len(body) != len(view):
            raise TransientError(f"{len(body):,} bytes arrived where {len(view):,} were asked for")
        view[:] = body

    def listing(self, prefix: str) -> Mapping[str, int] | None:
        """Keys and sizes below a prefix; None where listing is not allowed."""
        found: dict[str, int] = {}
        try:
            for chunk in self._library.list(self._store, prefix or None, chunk_size=1000):
                found |= {one["path"]: one["size"] for one in chunk}
                if len(found) > MAX_LISTED:
                    raise CheckpointError(
                        f"{self.url}/{clipped(prefix)}: more than {MAX_LISTED:,} objects; pass the folder of one "
                        "checkpoint."
                    )
        except (PermissionError, self._errors.PermissionDeniedError, self._errors.UnauthenticatedError):
            return None
        except self._errors.BaseError as error:
            if said(error).startswith(("401", "403")):
                return None
            raise TransientError(said(error)) from error
        return found

    def _get(self, key: str, options: Any, opened: Opened | None = None) -> Any:
        errors = self._errors
        try:
            return self._library.get(self._store, key, options=options)
        except FileNotFoundError as error:
            if opened is None:
                raise
            # Google keeps no version that was written over, unless the bucket is told to.
            raise changed(f"{self.url}/{clipped(key)}", opened.tag, "no longer there") from error
        except errors.PreconditionError as error:
            raise changed(f"{self.url}/{clipped(key)}", opened.tag if opened else "", "another") from error
        except (errors.PermissionDeniedError, errors.UnauthenticatedError) as error:
            raise PermissionError(f"access refused ({said(error)})") from error
        except errors.BaseError as error:
            if opened is None and said(error).startswith("416"):
                raise _EmptyError from error
            if said(error).startswith(("401", "403")):
                raise PermissionError(f"access refused ({said(error)})") from error
            raise TransientError(said(error)) from error


class _EmptyError(Exception):
    """An object without a first byte, of which no range can be asked for."""


def _store(url: Url) -> Any:
    from obstore import store as stores

    kinds: Any = {"s3": stores.S3Store, "gs": stores.GCSStore, "az": stores.AzureStore}
    options = {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "timeout": timedelta(seconds=READ_SECONDS),
        "allow_http": _allows_http(),
    }
    provider = _profile() if url.scheme == "s3" else None
    more = {} if provider is None else {"credential_provider": provider}
    # Retries are counted in one place, `with_retries`.
    once = {"max_retries": 0, "retry_timeout": timedelta(seconds=READ_SECONDS)}
    return kinds[url.scheme].from_url(
        f"{url.scheme}://{url.root}", client_options=options, retry_config=once, **more
    )


def _allows_http() -> bool:
    """Whether the environment says so, or its endpoint is on this machine."""
    hosts = [urlsplit(os.environ[name]).hostname or "" for name in ENDPOINTS if name in os.environ]
    return any(map(is_loopback, hosts)) or any(os.environ.get(name, "").lower() in ("1", "true") for name in ALLOW)


def _profile() -> Any:
    """Credentials of a named AWS profile, which boto3 reads and obstore by itself does not."""
    if "AWS_PROFILE" not in os.environ:
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise CheckpointError("AWS_PROFILE is set, and profiles need `pip install boto3`.") from error
    return Boto3CredentialProvider()
