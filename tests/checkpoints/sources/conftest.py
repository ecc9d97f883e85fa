"""A real S3-compatible server (moto's) with the bundled checkpoints in it, behind a proxy; and a web server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request as Put
from urllib.request import urlopen

import pytest

from ckptaudit.checkpoints.sources import stores
from ckptaudit.pipeline.api import audit
from ckptaudit.results.records import AuditResult
from tests.checkpoints.sources.servers import Log, folder_answer, proxy_answer, serving
from tests.conftest import FIXTURES, package


@dataclass(frozen=True)
class Bucket:
    """A bucket, the proxy's log, and a way to put objects into it."""

    server: str
    log: Log

    def put(self, key: str, content: bytes) -> str:
        """Write an object."""
        obstore = package("obstore")
        store = package("obstore.store").S3Store(
            "bucket", endpoint=self.server, access_key_id="any", secret_access_key="any", region="us-east-1",
            client_options={"allow_http": True},
        )  # fmt: skip
        obstore.put(store, key, content)
        return f"s3://bucket/{key}"

    def put_folder(self, key: str, folder: Path) -> str:
        """Write every file of a folder."""
        for file in folder.iterdir():
            self.put(f"{key}/{file.name}", file.read_bytes())
        return f"s3://bucket/{key}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """moto's server, with one bucket."""
    package("obstore")
    package("moto")
    server_of = package("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with urlopen(Put(f"http://{host}:{port}/bucket", method="PUT")):
        pass
    filled = Bucket(f"http://{host}:{port}", Log())
    for name in ("base", "rlvr", "lora"):
        filled.put_folder(name, FIXTURES / name)
    filled.put_folder("tuned", FIXTURES / "rlvr-gentle")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The bucket as the environment's credentials reach it, through the proxy."""
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0.001)
    with serving(proxy_answer(s3_server)) as (address, log):
        for name, value in s3_environment(address).items():
            monkeypatch.setenv(name, value)
        yield Bucket(s3_server, log)


def s3_environment(address: str) -> dict[str, str]:
    """What tells obstore where the server is; moto takes any key."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "not-a-secret-id",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret-key",
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture(scope="session")
def audited_here() -> AuditResult:
    """The audit of the bundled pair from files here."""
    return audit(FIXTURES / "base", FIXTURES / "rlvr", profile="release")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Log]]:
    """The bundled checkpoints on a web server with ranges."""
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0.001)
    with serving(folder_answer(FIXTURES)) as served:
        yield served
