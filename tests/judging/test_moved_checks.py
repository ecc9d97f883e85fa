"""The checks of what was left at the base: each holds on a healthy pair and is broken by its own damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.config import Config
from ckptaudit.judging.judge import judge
from ckptaudit.judging.profiles import bundled_checks, profile_named
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.execution import execute
from ckptaudit.pipeline.opening import OpenedAudit, open_audit
from ckptaudit.pipeline.planning import plan
from ckptaudit.pipeline.proving import prove
from tests.stale_pairs import decoder, trained

FILE = load_checks(bundled_checks() / "moved.toml")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedAudit:
    """A decoder of eight layers, trained but for its norms."""
    folder = tmp_path_factory.mktemp("pair")
    base = decoder(8)
    tuned = {name: base[name] if "norm" in name else tensor for name, tensor in trained(base, by=1.0625).items()}
    for side, tensors in (("base", base), ("tuned", tuned)):
        (folder / side).mkdir()
        save_file(tensors, folder / side / "model.safetensors")
    return open_audit(
        AuditOptions(base=str(folder / "base"), tuned=(str(folder / "tuned"),), device="cpu", complete=False)
    )


@pytest.mark.parametrize("check", FILE.checks, ids=lambda check: check.id)
def test_holds_on_the_healthy_pair_and_is_broken_by_its_damage(check: Check, opened: OpenedAudit) -> None:
    proof = prove(opened, check, FILE)
    assert [v.outcome for v in proof.intact] == ["passed"]
    assert [v.outcome for v in proof.damaged] == ["failed"]


def test_the_release_profiles_ask_these_checks() -> None:
    for name in ("release", "release_sft", "release_lora", "release_opd"):
        assert "moved.toml" in [path.name for path in profile_named(name).checks]


def test_what_may_be_on_purpose_never_closes_the_gate() -> None:
    closing = {check.id for check in FILE.checks if check.severity == "gate"}
    assert closing == {"stale-layers", "stale-rows", "frozen-unchanged"}


@pytest.mark.parametrize("name", ["rlvr-gentle", "rlvr-gentle-seed1", "lora", "sft", "rlvr"])
def test_no_bundled_run_is_refused_or_warned_of(name: str, fixture_pairs: Path) -> None:
    base, tuned = (str(fixture_pairs / side) for side in ("base", name))
    planned = plan(
        open_audit(AuditOptions(base=base, tuned=(tuned,), device="cpu", complete=False)), [FILE], Config()
    )
    for verdict in judge(planned, execute(planned)):
        assert verdict.outcome == "passed" or verdict.severity == "info", verdict.reason
