"""Every way to a remote checkpoint: the same tensors, few bytes, and every fault noticed or survived.

S3 by moto's server, Azure by Azurite, Google by gcp-storage-emulator behind a proxy that adds the headers it lacks,
a web server, and a stand-in for the hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import Request as Asked
from urllib.request import urlopen

import pytest
import torch
from safetensors.torch import load_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.checkpoints.sources import connections, hub, object_stores, stores
from ckptaudit.errors import CheckpointError
from tests.checkpoints.sources import servers
from tests.checkpoints.sources.conftest import s3_environment
from tests.checkpoints.sources.emulators import (
    ACCOUNT,
    CONTAINER,
    KEY,
    azure_environment,
    azurite,
    google_answer,
    google_emulator,
)
from tests.checkpoints.sources.servers import Log, Reply, Request, folder_answer, proxy_answer, serving
from tests.checkpoints.sources.test_hub import hub_answer
from tests.conftest import FIXTURES, package

WEIGHTS = "model.safetensors"
NAME = "model.layers.1.mlp.up_proj.weight"
BUCKETS = ("s3", "az", "gs")
ROUTES = (*BUCKETS, "https", "hf")


@dataclass(frozen=True)
class Route:
    """The address of the tuned checkpoint, and what its server was asked."""

    address: str
    log: Log


def start_of(request: Request) -> int:
    """The first byte that is asked for."""
    asked = request.headers.get("range") or request.headers.get("x-ms-range") or "bytes=0-"
    return int(asked.removeprefix("bytes=").partition("-")[0])


def of_weights(request: Request) -> bool:
    return unquote(urlsplit(request.path).path).endswith(WEIGHTS)


def of_tensors(request: Request) -> bool:
    return of_weights(request) and start_of(request) > 0


@pytest.fixture(scope="module")
def az_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with azurite(tmp_path_factory.mktemp("azurite")) as address:
        store = azure_store(address)
        for side in ("base", "rlvr"):
            for file in (FIXTURES / side).iterdir():
                package("obstore").put(store, f"{side}/{file.name}", file.read_bytes())
        yield address


def azure_store(address: str) -> Any:
    return package("obstore.store").AzureStore(
        CONTAINER, account_name=ACCOUNT, account_key=KEY, endpoint=f"{address}/{ACCOUNT}",
        client_options={"allow_http": True},
    )  # fmt: skip


@pytest.fixture(scope="module")
def gs_server() -> Iterator[str]:
    package("obstore")
    with google_emulator() as address:
        for side in ("base", "rlvr"):
            for file in (FIXTURES / side).iterdir():
                put_in_google(address, f"{side}/{file.name}", file.read_bytes())
        yield address


def put_in_google(address: str, key: str, content: bytes) -> None:
    with urlopen(Asked(f"{address}/{CONTAINER}/{key}", data=content, method="PUT")):
        pass


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Route]:
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(hub, "SMALL", 10_000)
    kind, root = request.param, {"https": "", "hf": "hf://org/model"}
    upstream = request.getfixturevalue(f"{kind}_server") if kind in BUCKETS else ""
    answer = {
        "s3": proxy_answer(upstream), "az": proxy_answer(upstream), "gs": google_answer(upstream),
        "https": folder_answer(FIXTURES), "hf": hub_answer,
    }[kind]  # fmt: skip
    with serving(answer) as (address, log):
        for name, value in environment(kind, address).items():
            monkeypatch.setenv(name, value)
        root |= {"https": f"{address}/rlvr"}
        yield Route(root.get(kind, f"{kind}://{CONTAINER}/rlvr"), log)


def environment(kind: str, address: str) -> dict[str, str]:
    """What tells each library where its server is."""
    return {
        "s3": s3_environment(address),
        "az": azure_environment(address),
        "gs": {"GOOGLE_BASE_URL": address, "GOOGLE_SKIP_SIGNATURE": "true"},
        "https": {},
        "hf": {"HF_ENDPOINT": address, "HF_TOKEN": "not-a-secret-token"},
    }[kind]


def test_tensors_are_those_of_the_folder(route: Route) -> None:
    here = load_file(FIXTURES / "rlvr" / WEIGHTS)
    opened = open_checkpoint(route.address)
    assert opened.tensors.keys() == here.keys()
    assert all(torch.equal(opened.tensors[name].read(), tensor) for name, tensor in here.items())


def test_the_header_alone_is_read_to_open_it(route: Route) -> None:
    open_checkpoint(f"{route.address}/{WEIGHTS}")
    sent = sum(request.sent for request in route.log.requests if of_weights(request))
    assert 0 < sent <= stores.HEAD


@pytest.mark.parametrize("fault", [servers.busy, servers.cut, servers.other_range, servers.longer_body])
def test_what_passes_is_tried_again(route: Route, fault: servers.Fault) -> None:
    opened = open_checkpoint(f"{route.address}/{WEIGHTS}")
    route.log.once(fault, of_tensors)
    assert torch.equal(opened.tensors[NAME].read(), load_file(FIXTURES / "rlvr" / WEIGHTS)[NAME])
    assert not route.log.faults


@pytest.mark.parametrize("fault", [servers.busy, servers.cut, servers.other_range])
def test_what_does_not_pass_ends_in_one_sentence(route: Route, fault: servers.Fault) -> None:
    opened = open_checkpoint(f"{route.address}/{WEIGHTS}")
    route.log.always.append(fault)
    with pytest.raises(CheckpointError, match=r"cannot be read .*given up after 6 attempts") as caught:
        opened.tensors[NAME].read()
    assert "\n" not in caught.value.sentence
    assert "secret" not in caught.value.sentence


def test_an_answer_that_never_ends_is_given_up(route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    def trickling(request: Request, reply: Reply) -> None:
        reply.piece, reply.pause = 10, 0.02

    for module in (connections, object_stores):
        monkeypatch.setattr(module, "READ_SECONDS", 0.15)
    monkeypatch.setattr(connections, "SLOWEST", 2**30)
    opened = open_checkpoint(f"{route.address}/{WEIGHTS}")
    route.log.always.append(trickling)
    with pytest.raises(CheckpointError, match="given up after 6 attempts"):
        opened.tensors[NAME].read()


@pytest.mark.parametrize("route", [kind for kind in ROUTES if kind != "hf"], indirect=True)
def test_another_object_in_its_place_is_refused(route: Route) -> None:
    def another(request: Request, reply: Reply) -> None:
        if of_tensors(request):
            reply.headers = {k: '"another"' if k.lower() == "etag" else v for k, v in reply.headers.items()}

    opened = open_checkpoint(f"{route.address}/{WEIGHTS}")
    route.log.always.append(another)
    with pytest.raises(CheckpointError, match="the object changed while it was audited"):
        opened.tensors[NAME].read()


@pytest.mark.parametrize("route", ["az", "gs"], indirect=True)
def test_an_object_that_is_written_again_is_refused(route: Route, request: pytest.FixtureRequest) -> None:
    kind = route.address.partition("://")[0]
    address = request.getfixturevalue(f"{kind}_server")
    contents = [(FIXTURES / side / WEIGHTS).read_bytes() for side in ("rlvr", "base")]

    def put(content: bytes) -> None:
        if kind == "gs":
            put_in_google(address, f"moving/{WEIGHTS}", content)
        else:
            package("obstore").put(azure_store(address), f"moving/{WEIGHTS}", content)

    put(contents[0])
    opened = open_checkpoint(f"{kind}://{CONTAINER}/moving/{WEIGHTS}")
    put(contents[1])
    with pytest.raises(CheckpointError, match="the object changed while it was audited"):
        opened.tensors[NAME].read()


def test_a_redirect_takes_no_credentials_to_another_host(route: Route) -> None:
    opened = open_checkpoint(f"{route.address}/{WEIGHTS}")
    with serving(lambda request: Reply(404, {"Content-Length": "0"}, b"")) as (other, theirs):

        def astray(request: Request, reply: Reply) -> None:
            reply.status, reply.body = 307, b""
            reply.headers = {"Content-Length": "0", "Location": f"{other}/stolen"}

        route.log.always.append(astray)
        with pytest.raises(CheckpointError):
            opened.tensors[NAME].read()
    for request in theirs.requests:
        assert not {"authorization", "x-amz-security-token"} & request.headers.keys()
        assert "secret" not in str(request)


def test_what_is_not_there_is_named(route: Route) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(f"{route.address}/nowhere.safetensors")
    assert "nowhere.safetensors" in caught.value.sentence
