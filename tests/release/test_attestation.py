"""An attestation says what the audit found, of these files, by this key; whatever is changed is noticed."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.torch import load_file, save_file

from ckptaudit.cli import main
from ckptaudit.results.json_io import read_json, write_json
from ckptaudit.results.records import AuditResult
from tests.cli.torchless import told
from tests.conftest import package, program
from tests.release.conftest import Release, new_key


def statement(path: Path) -> dict[str, Any]:
    """The payload, read without the package that wrote it."""
    found = json.loads(base64.b64decode(json.loads(path.read_text())["payload"]))
    assert isinstance(found, dict)
    return found


def resigned(release: Release, changed: dict[str, Any]) -> None:
    """The statement signed again by the same key, as somebody would who has it."""
    from ckptaudit.release.envelope import signed, signer_of

    release.attestation.write_bytes(signed(json.dumps(changed).encode(), signer_of(release.key)))


def test_an_open_gate_is_attested_and_verified(release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.attest() == 0
    assert "gate open" in capsys.readouterr().out
    assert release.verify() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:5]] == [
        ["ok", "signature"], ["ok", "content"], ["ok", "audited"], ["ok", "gate"], ["ok", "coverage"],
    ]  # fmt: skip
    assert lines[-1] == "verified"


def test_evidence_is_made_and_verified_without_torch(release: Release) -> None:
    names = [str(path) for path in (release.result, release.tuned, release.key, release.public)]
    told("attest", names[0], names[1], "--key", names[2], "-o", "a.json", cwd=release.folder)
    said = told("verify", "a.json", names[1], "--key", names[3], cwd=release.folder)
    assert said.splitlines()[-1] == "verified"


def test_the_statement_is_a_test_result_about_the_digest(release: Release, digested_result: AuditResult) -> None:
    release.attest()
    told = statement(release.attestation)
    predicate, facts = told["predicate"], told["predicate"]["ckptauditAudit"]
    assert told["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    hashes = [hashlib.sha256((release.tuned / f["name"]).read_bytes()) for f in facts["files"]]
    root = hashlib.sha256(b"".join(h.digest() for h in hashes)).hexdigest()
    assert told["subject"] == [{"name": "model", "digest": {"sha256": root}}]
    outcomes = [v.outcome for v in digested_result.verdicts]
    assert len(predicate["passedTests"]) == outcomes.count("passed")
    assert (predicate["result"], predicate["warnedTests"], predicate["failedTests"]) == ("PASSED", [], [])
    assert len(facts["notedTests"]) == 1
    assert "rlvr.toml::spectral-drift[layers.1]" in predicate["passedTests"]
    base = next(c for c in digested_result.checkpoints if c.side == "base")
    assert predicate["configuration"][0]["digest"] == {"sha256": base.digest}
    content = hashlib.sha256(release.result.read_bytes()).hexdigest()
    assert {"name": "audit.json", "digest": {"sha256": content}} in predicate["configuration"]
    assert facts["coverage"]["judged"] == facts["coverage"]["tensors"] == 51
    drift = next(limit for limit in facts["limits"] if limit["check"] == "spectral-drift")
    assert (drift["sign"], drift["limit"], drift["severity"], drift["subjects"]) == ("<=", 0.001, "gate", 4)


def test_the_in_toto_bindings_read_it(release: Release) -> None:
    package("in_toto_attestation")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    release.attest()
    told = statement(release.attestation)
    read = Statement.copy_from_pb(json_format.ParseDict(told, Message()))
    read.validate()
    predicate = json_format.ParseDict(told["predicate"], test_result_pb2.TestResult(), ignore_unknown_fields=True)
    assert list(predicate.passed_tests) == told["predicate"]["passedTests"]
    assert predicate.result == "PASSED"


def test_openssl_alone_confirms_the_signature(release: Release) -> None:
    """DSSE's pre-authentication encoding, written from its specification."""
    release.attest()
    envelope = json.loads(release.attestation.read_text())
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    (release.folder / "pae").write_bytes(signed)
    (release.folder / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    command = [program("openssl"), "dgst", "-sha256", "-verify", "key.pub", "-signature", "sig", "pae"]
    assert subprocess.run(command, cwd=release.folder, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("what", ["weight", "config", "more", "gone"])
def test_a_folder_that_was_changed_since_is_noticed(
    what: str, release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    release.attest()
    weights = release.tuned / "model.safetensors"
    if what == "weight":
        tensors = load_file(weights)
        next(iter(tensors.values())).view(-1)[0] += 1
        save_file(tensors, weights)
    elif what == "config":
        (release.tuned / "config.json").write_text((release.tuned / "config.json").read_text() + " ")
    elif what == "more":
        (release.tuned / "chat_template.jinja").write_text("")
    else:
        (release.tuned / "config.json").unlink()
    assert release.verify() == 1
    told = capsys.readouterr().out
    assert "FAILED  content    not what was attested" in told
    assert told.endswith("NOT verified\n")
    assert release.attest() == 4, "nor is it attested once more"


def test_names_count_though_the_root_digest_has_none(release: Release) -> None:
    release.attest()
    (release.tuned / "config.json").rename(release.tuned / "confih.json")
    assert release.verify() == 1


def test_another_key_and_a_changed_payload_are_noticed(
    release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    release.attest()
    envelope = json.loads(release.attestation.read_text())
    new_key(release.folder / "other.pem", release.folder / "other.pub")
    assert (
        main(["verify", str(release.attestation), str(release.tuned), f"--key={release.folder / 'other.pub'}"]) == 1
    )
    assert capsys.readouterr().out.splitlines()[-2].startswith("FAILED  signature")
    changed = statement(release.attestation) | {"subject": []}
    envelope["payload"] = base64.b64encode(json.dumps(changed).encode()).decode()
    release.attestation.write_text(json.dumps(envelope))
    assert release.verify() == 1
    assert len(capsys.readouterr().out.splitlines()) == 2, "of what is not signed nothing is told"


@pytest.mark.parametrize("how", ["gate", "result", "failedTests"])
def test_a_closed_gate_does_not_verify(how: str, release: Release) -> None:
    release.attest()
    told = statement(release.attestation)
    if how == "gate":
        told["predicate"]["ckptauditAudit"]["gate"] = "closed"
    else:
        told["predicate"][how] = "FAILED" if how == "result" else ["x"]
    resigned(release, told)
    assert release.verify() == 1


def test_a_failing_audit_is_attested_as_failed(
    release: Release, supervised: AuditResult, fixture_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(supervised, release.result)
    asked = ["attest", str(release.result), f"--key={release.key}", f"-o={release.attestation}"]
    assert main(asked) == 4
    assert "--audit-digest" in capsys.readouterr().err
    assert main([*asked, "--sampled"]) == 0
    told = statement(release.attestation)["predicate"]
    assert (told["result"], told["ckptauditAudit"]["gate"]) == ("FAILED", "closed")
    assert len(told["failedTests"]) == 24
    capsys.readouterr()
    sft = str(fixture_pairs / "sft")
    assert main(["verify", str(release.attestation), sft, f"--key={release.public}", "--min-coverage=0"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("FAILED")] == ["audited", "gate"]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (["--min-coverage=0.5"], 0),
        (["--profile=release"], 0),
        (["--profile=sft", "--profile=lora"], 1),
        (["--no-waivers"], 0),
        (["--min-coverage=2"], 4),
    ],
)
def test_what_is_asked_for_beyond_has_to_hold(asked: list[str], code: int, release: Release) -> None:
    release.attest()
    assert release.verify(*asked) == code


def test_too_little_coverage_and_waivers_are_refused(release: Release) -> None:
    release.attest()
    told = statement(release.attestation)
    facts = told["predicate"]["ckptauditAudit"]
    facts["waivers"] = [{"test": "a", "reason": "b"}]
    facts["coverage"]["judgedParameters"] //= 2
    resigned(release, told)
    assert release.verify() == 1
    assert release.verify("--min-coverage=0.4") == 0
    assert release.verify("--min-coverage=0.4", "--no-waivers") == 1


def test_evidence_may_lie_in_the_folder(release: Release) -> None:
    inside = release.tuned / "evidence" / "signed.json"
    asked = [str(release.result), str(release.tuned), f"--key={release.key}", f"-o={inside}"]
    assert main(["attest", *asked]) == 0
    assert main(["verify", str(inside), str(release.tuned), f"--key={release.public}"]) == 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("option", ["-o", "--model-signature"])
def test_evidence_takes_the_place_of_no_file_of_the_model(
    release: Release, capsys: pytest.CaptureFixture[str], option: str, name: str
) -> None:
    before = (release.tuned / name).read_bytes()
    assert release.attest(option, release.tuned / name) == 4
    assert "would be overwritten" in capsys.readouterr().err
    assert (release.tuned / name).read_bytes() == before
    assert not release.attestation.exists()


def test_evidence_takes_the_place_of_earlier_evidence(release: Release) -> None:
    for _ in range(2):
        assert release.attest("-o", release.tuned / "audit.intoto.json") == 0


def test_a_run_of_many_is_found_by_its_content(
    release: Release, digested_result: AuditResult, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = digested_result.checkpoints
    other = msgspec.structs.replace(tuned, path="other", files=base.files)
    both = msgspec.structs.replace(
        digested_result, tuned=("other", *digested_result.tuned), checkpoints=(base, other, tuned)
    )
    write_json(both, release.result)
    assert release.attest() == 0
    assert len(statement(release.attestation)["predicate"]["passedTests"]) > 90
    assert main(["attest", str(release.result), f"--key={release.key}"]) == 4
    assert "name the folder of one" in capsys.readouterr().err


def test_an_encrypted_key_takes_its_password_from_the_environment(
    release: Release, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new_key(release.key, release.public, password="secret")
    assert release.attest() == 4
    assert "CKPTAUDIT_KEY_PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv("CKPTAUDIT_KEY_PASSWORD", "secret")
    assert release.attest() == 0
    assert release.verify() == 0


def test_the_model_s_own_signature_verifies_by_model_signing(release: Release) -> None:
    package("model_signing")
    signature = release.tuned / "model.sig"
    assert release.attest("--model-signature", signature) == 0
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(release.tuned)]
    command += [f"--signature={signature}", f"--public_key={release.public}"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    bundle = json.loads(signature.read_text())
    manifest = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    subject = statement(release.attestation)["subject"]
    assert manifest["subject"] == subject, "both are about one digest"
    assert release.verify() == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no DSSE envelope"),
        (b"[" * 100_000, "no DSSE envelope"),
        (b"[]", "no DSSE envelope"),
        (b'{"payload": "", "payloadType": "text", "signatures": []}', "an envelope of text"),
        (b'{"payload": 1, "payloadType": "a", "signatures": [{}]}', "no DSSE envelope"),
    ],
)
def test_what_is_no_attestation_is_one_line_and_code_4(
    content: bytes, words: str, release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    release.attestation.write_bytes(content)
    assert release.verify() == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert line.endswith("See docs/evidence.md.")


def test_a_signed_statement_of_something_else_is_no_attestation(
    release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    release.attest()
    resigned(release, {"_type": "x"})
    assert release.verify() == 4
    resigned(release, statement(release.attestation) | {})
    release.attest()
    resigned(release, statement(release.attestation) | {"predicateType": "https://slsa.dev/provenance/v1"})
    assert release.verify() == 4
    assert "a statement of https://slsa.dev" in capsys.readouterr().err


def test_keys_that_are_none_are_one_line(release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    release.key.write_text("no key")
    assert release.attest() == 4
    assert "openssl genpkey" in capsys.readouterr().err
    release.public.write_text("no key")
    release.attestation.write_text("{}")
    assert release.verify() == 4


def test_the_option_of_the_gate_takes_the_digests(
    pytester: pytest.Pytester, digested_result: AuditResult, fixture_pairs: Path
) -> None:
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    pytester.runpytest(*pair, "--audit-digest", "--audit-json=a.json", "-k", "finite")
    read = read_json(pytester.path / "a.json")
    assert [c.digest for c in read.checkpoints] == [c.digest for c in digested_result.checkpoints]
    assert [c.files for c in read.checkpoints] == [c.files for c in digested_result.checkpoints]
