"""Emulators of Azure Blob Storage and Google Cloud Storage on the loopback, where they are installed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import format_datetime, formatdate
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import Request as Asked
from urllib.request import urlopen
from xml.sax.saxutils import escape

import pytest

from tests.checkpoints.sources.servers import Reply, Request, proxy_answer
from tests.conftest import package

ACCOUNT, KEY = "account", base64.b64encode(b"not-a-secret-key").decode()
CONTAINER = "bucket"


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """Azurite's blob service with one container; `npm install azurite` brings it."""
    program = os.environ.get("AZURITE_BLOB") or shutil.which("azurite-blob")
    if program is None:
        pytest.skip("needs azurite-blob on the path, or named by AZURITE_BLOB: npm install azurite")
    command = [program, "--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            address = next(word for line in process.stdout for word in line.split() if word.startswith("http://"))
            _make_container(address)
            yield address
        finally:
            process.terminate()


def azure_environment(address: str) -> dict[str, str]:
    """What tells obstore where the emulator is."""
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_ENDPOINT": f"{address}/{ACCOUNT}",
    }


def _make_container(address: str) -> None:
    """By a request signed with the account's key, as obstore makes no containers."""
    path, date = f"/{ACCOUNT}/{CONTAINER}", formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
    text = "PUT" + "\n" * 12 + headers + f"/{ACCOUNT}{path}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    told = {"x-ms-date": date, "x-ms-version": "2021-08-06", "Authorization": f"SharedKey {ACCOUNT}:{signature}"}
    with urlopen(Asked(f"{address}{path}?restype=container", method="PUT", headers=told)):
        pass


@contextmanager
def google_emulator() -> Iterator[str]:
    """gcp-storage-emulator with one bucket; `google_answer` adds what its downloads lack."""
    package("gcp_storage_emulator")
    server = package("gcp_storage_emulator.server").create_server(
        "127.0.0.1", 0, in_memory=True, default_bucket=CONTAINER
    )
    server.start()
    try:
        yield f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
    finally:
        server.stop()


def google_answer(upstream: str) -> Callable[[Request], Reply]:
    """The emulator's answers, with the headers, the condition and the listing that the real service has.

    The emulator tells ETag, generation and time in its JSON alone, and lists there alone.
    """
    forward = proxy_answer(upstream)

    def answer(request: Request) -> Reply:
        split = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        if "list-type" in query:
            return _xml(_json(f"{upstream}/storage/v1/b/{CONTAINER}/o?prefix={quote(query.get('prefix', ''))}"))
        key = unquote(split.path).removeprefix(f"/{CONTAINER}/")
        found = _json(f"{upstream}/storage/v1/b/{CONTAINER}/o/{quote(key, safe='')}")
        if not found or query.get("generation", found["generation"]) != found["generation"]:
            return Reply(404, {"Content-Length": "0"}, b"")
        tag = f'"{found["etag"]}"'
        if request.headers.get("if-match", tag) != tag:
            return Reply(412, {"Content-Length": "0"}, b"")
        reply = forward(Request(split.path, request.headers))
        changed = format_datetime(datetime.fromisoformat(found["updated"]), usegmt=True)
        reply.headers |= {"ETag": tag, "Last-Modified": changed, "x-goog-generation": found["generation"]}
        return reply

    return answer


def _json(address: str) -> dict[str, Any]:
    try:
        with urlopen(address) as answer:
            return dict(json.load(answer))
    except HTTPError:
        return {}


def _xml(listing: dict[str, Any]) -> Reply:
    items = listing.get("items", [])
    rows = "".join(
        f"<Contents><Key>{escape(one['name'])}</Key><LastModified>{one['updated']}</LastModified>"
        f'<ETag>"{one["etag"]}"</ETag><Size>{one["size"]}</Size></Contents>'
        for one in items
    )
    body = f"<ListBucketResult>{rows}</ListBucketResult>".encode()
    return Reply(200, {"Content-Type": "application/xml", "Content-Length": str(len(body))}, body)
