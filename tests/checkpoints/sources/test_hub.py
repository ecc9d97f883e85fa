"""Models of the hub by ranges, against a server that answers as the hub's interface is documented."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import load_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.checkpoints.sources import hub, stores
from ckptaudit.errors import CheckpointError
from tests.checkpoints.sources.servers import Log, Reply, Request, folder_answer, serving
from tests.conftest import FIXTURES

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "model.layers.1.mlp.up_proj.weight"
WEIGHTS = FIXTURES / "rlvr" / "model.safetensors"


def hub_answer(request: Request) -> Reply:
    """One model, `org/model`, with a branch `main` and a tag `v1`; its weights lie behind a redirect."""
    path = urlsplit(request.path).path
    if path in ("/api/models/org/model/revision/main", "/api/models/org/model/revision/v1"):
        files = [{"rfilename": f.name, "size": f.stat().st_size} for f in (FIXTURES / "rlvr").iterdir()]
        body = json.dumps({"sha": COMMIT, "siblings": files}).encode()
        return Reply(200, {"Content-Length": str(len(body))}, body)
    if path == f"/org/model/resolve/{COMMIT}/model.safetensors":
        return Reply(
            302, {"Content-Length": "0", "Location": "/store/rlvr/model.safetensors?Signature=secret"}, b""
        )
    prefix = f"/org/model/resolve/{COMMIT}/" if "/resolve/" in path else "/store/"
    folder = FIXTURES / "rlvr" if "/resolve/" in path else FIXTURES
    return folder_answer(folder)(Request(f"/{path.removeprefix(prefix)}", request.headers))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setattr(stores, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(hub, "SMALL", 10_000)
    with serving(hub_answer) as (address, log):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "not-a-secret-token")
        yield log


@pytest.mark.parametrize("url", ["hf://org/model", "hf://org/model@v1", "hf://org/model/model.safetensors"])
def test_a_model_is_read_by_ranges_at_one_commit(served: Log, url: str) -> None:
    opened = open_checkpoint(url)
    assert opened.path == url
    assert torch.equal(opened.tensors[NAME].read(), load_file(WEIGHTS)[NAME])
    assert served.sent("model.safetensors") < WEIGHTS.stat().st_size / 2
    asked = [request.path for request in served.requests if "/resolve/" in request.path]
    assert asked
    assert all(COMMIT in path for path in asked)


def test_the_token_goes_to_the_hub(served: Log) -> None:
    open_checkpoint("hf://org/model")
    assert all(r.headers["authorization"] == "Bearer not-a-secret-token" for r in served.requests)


def test_the_token_goes_to_no_other_host(served: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder_answer(FIXTURES)) as (other, log):

        def elsewhere(request: Request, reply: Reply) -> None:
            if reply.status == 302:
                reply.headers["Location"] = f"{other}/rlvr/model.safetensors"

        served.always.append(elsewhere)
        opened = open_checkpoint("hf://org/model")
        assert torch.equal(opened.tensors[NAME].read(), load_file(WEIGHTS)[NAME])
        assert log.requests
        assert not any("authorization" in request.headers for request in log.requests)


def test_an_unknown_revision_is_one_sentence(served: Log) -> None:
    with pytest.raises(
        CheckpointError, match=r"hf://org/model@v9: the hub gave no model of that name and revision"
    ):
        open_checkpoint("hf://org/model@v9")


def test_a_hub_over_plain_http_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.com")
    with pytest.raises(CheckpointError, match="HF_ENDPOINT must be an https address"):
        open_checkpoint("hf://org/model")
