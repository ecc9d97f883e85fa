"""A small audited pair in a folder of its own, and a key."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from ckptaudit.cli import main
from ckptaudit.pipeline.api import audit
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult
from tests.conftest import package


@dataclass(frozen=True)
class Release:
    """What a release job has at hand."""

    folder: Path
    tuned: Path
    key: Path
    public: Path
    result: Path
    attestation: Path

    def attest(self, *more: object) -> int:
        return main(
            ["attest", *map(str, (self.result, self.tuned, "--key", self.key, "-o", self.attestation, *more))]
        )

    def verify(self, *more: object) -> int:
        return main(["verify", *map(str, (self.attestation, self.tuned, "--key", self.public, *more))])


@pytest.fixture(scope="session")
def digested_result(fixture_pairs: Path) -> AuditResult:
    """The audit of the bundled gentle run, with digests."""
    return audit(fixture_pairs / "base", fixture_pairs / "rlvr-gentle", complete=False, cache="off", digest=True)


@pytest.fixture
def release(digested_result: AuditResult, fixture_pairs: Path, tmp_path: Path) -> Release:
    """A copy of the run, its result and a new key; the result names the place where it was audited."""
    package("securesystemslib")
    shutil.copytree(fixture_pairs / "rlvr-gentle", tmp_path / "model")
    write_json(digested_result, tmp_path / "audit.json")
    new_key(tmp_path / "key.pem", tmp_path / "key.pub")
    names = ("model", "key.pem", "key.pub", "audit.json", "audit.intoto.json")
    return Release(tmp_path, *(tmp_path / name for name in names))


def new_key(private: Path, public: Path, password: str = "") -> None:
    """A new key on P-256 as two files in PEM."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    hidden = s.BestAvailableEncryption(password.encode()) if password else s.NoEncryption()
    private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, hidden))
    public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
