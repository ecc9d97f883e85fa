"""Nothing is promoted while the gate is closed; what is promoted is what was audited."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ckptaudit.cli import main
from ckptaudit.errors import PromotionError
from ckptaudit.release.promotion import promote_in_mlflow, send_to_webhook
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult
from tests.conftest import package


@pytest.fixture
def files(digested_result: AuditResult, supervised: AuditResult, tmp_path: Path) -> tuple[Path, Path]:
    """The result of an open gate, and that of a closed one."""
    for name, result in (("open", digested_result), ("closed", supervised)):
        write_json(result, tmp_path / f"{name}.json")
    return tmp_path / "open.json", tmp_path / "closed.json"


class Hook:
    """A server on the loopback that keeps what it is sent and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(hook.status)
                self.send_header("Location", hook.url)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/released"


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.server.shutdown()
    server.server.server_close()
    thread.join()


def test_a_webhook_is_told_of_an_open_gate_and_can_tell_who_sent_it(
    hook: Hook, files: tuple[Path, Path], digested_result: AuditResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTAUDIT_WEBHOOK_SECRET", "secret")
    assert main(["promote", str(files[0]), "webhook", f"--url={hook.url}"]) == 0
    ((headers, body),) = hook.got
    told = json.loads(body)
    assert (told["gate"], told["profile"], told["failed"]) == ("open", "release", 0)
    assert told["tuned_sha256"] == digested_result.checkpoints[1].digest
    assert told["parameters_judged"] == 1.0
    seal = hmac.new(b"secret", body, hashlib.sha256).hexdigest()
    assert headers["X-Ckptaudit-Signature-256"] == f"sha256={seal}"


def test_a_closed_gate_promotes_nothing(
    hook: Hook, files: tuple[Path, Path], supervised: AuditResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["promote", str(files[1]), "webhook", f"--url={hook.url}"]) == 1
    assert capsys.readouterr().out.startswith("not promoted: the gate is closed by spectral-drift")
    with pytest.raises(PromotionError, match="nothing is promoted"):
        send_to_webhook(supervised, hook.url)
    with pytest.raises(PromotionError, match="nothing is promoted"):
        promote_in_mlflow(supervised, model="m", version="1", alias="a", store=None)
    assert hook.got == []


@pytest.mark.parametrize("status", [307, 302, 404, 500])
def test_a_message_that_is_not_accepted_is_no_promotion(
    status: int, hook: Hook, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    hook.status = status
    assert main(["promote", str(files[0]), "webhook", f"--url={hook.url}"]) == 4
    assert "was not accepted" in capsys.readouterr().err
    assert len(hook.got) == 1, "no redirection is followed"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "nothing", "http://127.0.0.1:1/"])
def test_addresses_that_are_none(url: str, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["promote", str(files[0]), "webhook", f"--url={url}"]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_only_the_files_that_were_audited(
    hook: Hook, files: tuple[Path, Path], fixture_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["promote", str(files[0]), f"--folder={fixture_pairs / 'rlvr'}", "webhook", f"--url={hook.url}"]
    assert main(asked) == 1
    assert "differs: changed" in capsys.readouterr().out
    asked[2] = f"--folder={fixture_pairs / 'rlvr-gentle'}"
    assert main(asked) == 0
    assert len(hook.got) == 1


def test_a_script_is_told_by_the_exit_code(
    files: tuple[Path, Path], fixture_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["promote", str(files[0]), f"--folder={fixture_pairs / 'rlvr-gentle'}", "check"]) == 0
    assert main(["promote", str(files[0]), f"--folder={fixture_pairs / 'rlvr'}", "check"]) == 1
    assert main(["promote", str(files[1]), "check"]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "may be promoted: the gate is open"
    assert "differs" in second
    assert "spectral-drift" in third


@pytest.mark.slow
def test_w_and_b_links_no_version_to_its_registry_without_its_server(tmp_path: Path) -> None:
    # Why there is no such place: what cannot be tried is not offered. If this fails, it can be tried now.
    wandb = package("wandb")
    run = wandb.init(mode="offline", project="p", dir=tmp_path, settings=wandb.Settings(silent=True))
    try:
        logged = run.log_artifact(wandb.Artifact("policy", type="model"), aliases=["candidate"])
        with pytest.raises(NotImplementedError):
            run.link_artifact(logged, target_path="wandb-registry-model/policy", aliases=["champion"])
    finally:
        run.finish()


@pytest.mark.filterwarnings("ignore")  # MLflow's use of SQLAlchemy is MLflow's business
def test_mlflow_s_registry_gets_alias_and_tags(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], digested_result: AuditResult
) -> None:
    mlflow = package("mlflow")
    package("sqlalchemy")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=store, registry_uri=store)
    client.create_registered_model("policy")
    for _ in range(2):
        client.create_model_version("policy", source=str(tmp_path))
    client.set_registered_model_alias("policy", "champion", "1")
    asked = ["mlflow", "--model=policy", "--version=2", "--alias=champion", f"--store={store}"]
    assert main(["promote", str(files[1]), *asked]) == 1
    assert client.get_model_version_by_alias("policy", "champion").version in (1, "1")
    assert main(["promote", str(files[0]), *asked]) == 0
    promoted = client.get_model_version_by_alias("policy", "champion")
    assert promoted.version in (2, "2")
    assert promoted.tags["ckptaudit.gate"] == "open"
    assert promoted.tags["ckptaudit.tuned_sha256"] == digested_result.checkpoints[1].digest
    capsys.readouterr()
    assert main(["promote", str(files[0]), *asked[:2], "--version=9", *asked[3:]]) == 4
    assert "MLflow refuses" in capsys.readouterr().err
