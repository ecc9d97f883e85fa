"""Checkpoints on a web server: by ranges only, of one version only, and not where a redirect leads astray."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.checkpoints.sources import connections
from ckptaudit.cli import main
from ckptaudit.errors import CheckpointError
from ckptaudit.pipeline.api import audit
from ckptaudit.results.records import AuditResult
from tests.checkpoints.sources import servers
from tests.checkpoints.sources.servers import Log, Reply, Request, folder_answer, serving
from tests.conftest import FIXTURES, program

Web = tuple[str, Log]
NAME = "model.layers.1.mlp.up_proj.weight"


def of_header(request: Request) -> bool:
    return request.path.endswith("model.safetensors") and request.headers["range"].startswith("bytes=0-")


def after_the_header(request: Request) -> bool:
    return request.path.endswith("model.safetensors") and not of_header(request)


def builtins(result: AuditResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(result))
    return found


def test_an_audit_over_the_web_is_that_of_the_folders(web: Web, audited_here: AuditResult) -> None:
    address, _ = web
    remote = builtins(audit(f"{address}/base", f"{address}/rlvr", profile="release"))
    here = builtins(audited_here)
    for kind in ("verdicts", "measurements"):
        assert json.dumps(remote[kind]).replace(address, str(FIXTURES)) == json.dumps(here[kind])
    assert (
        f"{address}/rlvr: its server lists no files, so those under unusual names were not seen" in remote["notes"]
    )


def test_a_file_by_its_address(web: Web) -> None:
    address, log = web
    opened = open_checkpoint(f"{address}/rlvr/model.safetensors")
    assert torch.equal(opened.tensors[NAME].read(), load_file(FIXTURES / "rlvr" / "model.safetensors")[NAME])
    assert all(request.ranged for request in log.requests)


@pytest.mark.parametrize("fault", [servers.busy, servers.cut, servers.other_range, servers.longer_body])
@pytest.mark.parametrize("when", [0, 1])
def test_what_passes_is_tried_again(web: Web, fault: servers.Fault, when: int) -> None:
    address, log = web
    log.once(
        fault, lambda r: r.path.endswith("model.safetensors") and r.headers["range"].startswith("bytes=0-") != when
    )
    opened = open_checkpoint(f"{address}/rlvr")
    assert torch.equal(opened.tensors[NAME].read(), load_file(FIXTURES / "rlvr" / "model.safetensors")[NAME])
    assert not log.faults


def test_a_server_that_stays_busy_is_given_up(web: Web) -> None:
    address, log = web
    opened = open_checkpoint(f"{address}/rlvr")
    log.always.append(servers.busy)
    with pytest.raises(
        CheckpointError, match=r"cannot be read .the server answered 503; given up after 6 attempts"
    ):
        opened.tensors[NAME].read()


def test_a_server_without_ranges_is_a_clear_error(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    address, log = web
    log.always.append(servers.ignores_ranges)
    assert main(["inspect", f"{address}/rlvr/model.safetensors"]) == 4
    assert "the server ignores ranges, and only parts of files are read remotely" in capsys.readouterr().err


def test_a_part_without_content_range_is_a_clear_error(web: Web) -> None:
    address, log = web
    opened = open_checkpoint(f"{address}/rlvr")
    log.always.append(servers.without_content_range)
    with pytest.raises(CheckpointError, match="no valid Content-Range"):
        opened.tensors[NAME].read()


def retagged(kind: str | None, value: str = "") -> servers.Fault:
    def fault(request: Request, reply: Reply) -> None:
        reply.headers = {k: v for k, v in reply.headers.items() if k != "ETag"}
        if kind:
            reply.headers[kind] = value

    return fault


def test_a_change_is_noticed_whatever_tells_of_it(web: Web) -> None:
    address, log = web
    for kind, before, after in (
        ("ETag", 'W/"1"', 'W/"2"'),
        ("Last-Modified", "Fri, 27 Nov 2026 10:00:00 GMT", "Fri, 27 Nov 2026 11:00:00 GMT"),
    ):
        log.always[:] = [retagged(kind, before)]
        opened = open_checkpoint(f"{address}/rlvr")
        opened.tensors[NAME].read()
        log.always[:] = [retagged(kind, after)]
        with pytest.raises(CheckpointError, match="the object changed"):
            opened.tensors[NAME].read()


def test_the_etag_is_sent_with_every_later_read(web: Web) -> None:
    address, log = web
    open_checkpoint(f"{address}/rlvr").tensors[NAME].read()
    later = [
        r for r in log.requests if r.path.endswith("model.safetensors") and r.headers["range"][:8] != "bytes=0-"
    ]
    assert later
    assert all("if-match" in request.headers for request in later)


def test_a_server_that_tells_no_version_is_refused(web: Web) -> None:
    address, log = web
    log.always.append(retagged(None))
    with pytest.raises(CheckpointError, match="neither ETag nor Last-Modified"):
        open_checkpoint(f"{address}/rlvr/model.safetensors")


def test_a_server_that_never_answers_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    address, log = web
    monkeypatch.setattr(connections, "READ_SECONDS", 0.05)
    waiting = threading.Event()

    def never(request: Request, reply: Reply) -> None:
        waiting.wait(2)

    log.always.append(never)
    with pytest.raises(CheckpointError, match=r"no answer from 127.0.0.1:\d+ .TimeoutError.; given up after 6"):
        open_checkpoint(f"{address}/rlvr/model.safetensors")
    waiting.set()


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(request: Request, reply: Reply) -> None:
        reply.piece, reply.pause = 100, 0.02

    address, log = web
    monkeypatch.setattr(connections, "READ_SECONDS", 0.1)
    monkeypatch.setattr(connections, "SLOWEST", 2**30)
    log.always.append(slowly)
    with pytest.raises(CheckpointError, match=r"only [\d,]+ of 65,536 bytes in 0.1 s; given up after 6 attempts"):
        open_checkpoint(f"{address}/rlvr/model.safetensors")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine's address, with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=loopback"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([program("openssl"), *made, *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "certificate.pem").read_bytes())
    return both


def test_https_with_a_trusted_certificate(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(folder_answer(FIXTURES), context) as (address, _):
        with pytest.raises(CheckpointError, match="its certificate is not trusted"):
            open_checkpoint(f"{address}/rlvr")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        opened = open_checkpoint(f"{address}/rlvr")
        assert torch.equal(opened.tensors[NAME].read(), load_file(FIXTURES / "rlvr" / "model.safetensors")[NAME])


def redirecting(target: str) -> servers.Fault:
    def fault(request: Request, reply: Reply) -> None:
        if request.path.startswith("/rlvr"):
            reply.status, reply.body = 302, b""
            reply.headers = {"Content-Length": "0", "Location": target.format(path=request.path)}

    return fault


def test_a_redirect_on_the_same_host_is_followed(web: Web, tmp_path: Path) -> None:
    address, log = web
    with serving(folder_answer(FIXTURES)) as (other, _):
        log.always.append(redirecting(f"{other}{{path}}"))
        opened = open_checkpoint(f"{address}/rlvr/model.safetensors")
        assert torch.equal(opened.tensors[NAME].read(), load_file(FIXTURES / "rlvr" / "model.safetensors")[NAME])


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/passwd", "file://, which is not followed"),
        ("ftp://127.0.0.1/x", "ftp://, which is not followed"),
        ("http://example.com/x", "an address that is not followed"),
        ("https://169.254.169.254/latest/meta-data", "a host of a private network"),
        ("https://10.0.0.1/x", "a host of a private network"),
        ("https://user:word@127.0.0.1/x", "an address that is not followed"),
        ("http://127.0.0.1:99999/x", "an invalid address"),
        ("{path}", "more than 5 times"),
    ],
)
def test_a_redirect_astray_is_refused(web: Web, target: str, words: str) -> None:
    address, log = web
    log.always.append(redirecting(target))
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(f"{address}/rlvr/model.safetensors")


def test_a_folder_without_usual_names_says_what_to_pass(web: Web) -> None:
    address, _ = web
    with pytest.raises(CheckpointError, match="this server lists no others; pass the address of the file"):
        open_checkpoint(f"{address}/probes")
