"""Each quantity has one check and one damage under which it, of a healthy release, reports a finding."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ckptaudit.artifact import QUANTITIES
from ckptaudit.damages.artifact import DAMAGES
from tests.artifact.releases import Pair, findings_of

CHECKS = tomllib.loads((Path(__file__).parents[2] / "checks" / "artifact.toml").read_text())["check"]
SECOND = {
    "truncate_tokenizer_json": set(),
    "declare_fewer_layers": {"config_changes"},
    "export_as_float64": {"dtype_faults"},
    "change_end_token": set(),
}
"""What else a damage breaks, by its own description."""


def test_every_quantity_has_one_check() -> None:
    assert sorted(check["metric"] for check in CHECKS) == sorted(QUANTITIES)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check["id"])
def test_a_damage_breaks_its_check_and_says_what_else(check: dict[str, str], pair: Pair) -> None:
    healthy = pair.open()
    assert findings_of(healthy) == {}
    found = findings_of(DAMAGES[check["breaks_when"]](healthy))
    assert set(found) == {check["metric"], *SECOND.get(check["breaks_when"], set())}
    assert findings_of(healthy) == {}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check["id"])
def test_a_damage_breaks_its_check_on_the_bundled_base(check: dict[str, str], fixture_pairs: Path) -> None:
    from tests.artifact.releases import evidence_of

    evidence = evidence_of(fixture_pairs / "base", fixture_pairs / "base")
    assert check["metric"] in findings_of(DAMAGES[check["breaks_when"]](evidence))
