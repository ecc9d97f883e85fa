"""The JUnit file that pytest writes and the one made again from the JSON: valid, and of one mind."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lxml import etree
from safetensors.torch import load_file, save_file

from ckptaudit.report.junit import junit
from ckptaudit.results.json_io import read_json
from ckptaudit.results.records import AuditResult
from tests.synthetic import measured, result, verdict

GRAMMAR = Path(__file__).with_name("junit.rng")

CONFIG = """
[[override]]
check = "update-size"
severity = "warn"
reason = "We look at it together."

[[waiver]]
check = "spectral-drift"
subject = "layers.0"
until = 2100-01-01
reason = "Known since the last release."
"""


def schema(*, properties_of_cases: bool) -> etree.RelaxNG:
    text = GRAMMAR.read_text()
    if properties_of_cases:
        here = '<define name="properties-of-cases"><empty/></define>'
        assert here in text
        text = text.replace(here, here.replace("<empty/>", '<optional><ref name="properties"/></optional>'))
    return etree.RelaxNG(etree.fromstring(text.encode()))


@dataclass(frozen=True)
class Case:
    """A test case as a reader of either file sees it."""

    classname: str
    outcome: str
    type: str
    message: str
    text: str
    properties: tuple[tuple[str, str], ...]


def cases(content: bytes) -> dict[str, Case]:
    root = etree.fromstring(content)
    return {case.get("name"): _case(case) for case in root.iter("testcase")}


def _case(case: etree._Element) -> Case:
    ends = [e for e in case if e.tag in ("failure", "error", "skipped")]
    assert len(ends) <= 1
    end = ends[0] if ends else None
    told = end if end is not None and end.tag != "skipped" else case.find("system-out")
    return Case(
        classname=case.get("classname"),
        outcome=end.tag if end is not None else "passed",
        type=end.get("type") if end is not None and end.tag == "skipped" else "",
        message=end.get("message") if end is not None else "",
        text=(told.text or "").strip() if told is not None else "",
        properties=tuple((p.get("name"), p.get("value")) for p in case.iter("property")),
    )


@pytest.fixture
def damaged(small_pair: tuple[Path, Path]) -> tuple[Path, Path]:
    """The small pair with a layer scaled, and another with a NaN."""
    file = small_pair[1] / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.self_attn.q_proj.weight"] *= 1.1
    tensors["model.layers.1.self_attn.q_proj.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    return small_pair


def audited(pytester: pytest.Pytester, base: Path, tuned: Path, *options: str) -> tuple[bytes, bytes]:
    """pytest's own file, and the one made again from the JSON of the same run."""
    pytester.runpytest(f"--base={base}", f"--tuned={tuned}", "--junitxml=a.xml", "--audit-json=a.json", *options)
    return (pytester.path / "a.xml").read_bytes(), junit(read_json(pytester.path / "a.json"))


def counts(content: bytes) -> dict[str, str | None]:
    suite = etree.fromstring(content).find("testsuite")
    assert suite is not None
    return {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}


def suite_properties(content: bytes) -> dict[str, str]:
    found = etree.fromstring(content).findall("testsuite/properties/property")
    return {p.get("name"): p.get("value") for p in found}


@pytest.mark.parametrize(
    "options", [(), ("-n", "2"), ("-o", "junit_family=xunit1")], ids=["plain", "xdist", "xunit1"]
)
def test_both_files_agree_on_every_ending(
    pytester: pytest.Pytester, damaged: tuple[Path, Path], options: tuple[str, ...]
) -> None:
    (pytester.path / "ckptaudit.toml").write_text(CONFIG)
    theirs, ours = audited(pytester, *damaged, *options)
    found = cases(theirs)
    assert cases(ours) == found
    assert counts(ours) == counts(theirs)
    assert suite_properties(ours) == suite_properties(theirs)
    # Each way to end is among them, so that agreeing on them says something.
    assert found["spectral-drift[layers.0]"].type == "pytest.xfail"
    assert found["spectral-drift[layers.1]"].outcome == "error"
    assert found["finite[layers.1]"].outcome == "failure"
    warned = found["update-size[layers.0]"]
    assert warned.outcome == "passed"
    assert warned.text.startswith("measured")
    assert dict(warned.properties)["severity"] == "warn"


def test_both_files_agree_on_what_is_skipped(pytester: pytest.Pytester, small_pair: tuple[Path, Path]) -> None:
    same = small_pair[0]
    theirs, ours = audited(pytester, same, same)
    assert cases(ours) == cases(theirs)
    assert counts(ours) == counts(theirs)
    assert {c.type for c in cases(theirs).values()} == {"", "pytest.skip"}


@pytest.mark.parametrize("tuned", ["rlvr-gentle", "sft"])
def test_both_files_agree_on_the_bundled_pairs(pytester: pytest.Pytester, fixture_pairs: Path, tuned: str) -> None:
    narrow = ("-k", "update-size or aligned or finite")
    theirs, ours = audited(pytester, fixture_pairs / "base", fixture_pairs / tuned, *narrow)
    assert cases(ours) == cases(theirs)
    assert counts(ours) == counts(theirs)
    assert ("failure" in {c.outcome for c in cases(theirs).values()}) == (tuned == "sft")


def test_the_suite_names_pair_fingerprints_and_versions(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path]
) -> None:
    base, tuned = small_pair
    other = shutil.copytree(tuned, tuned.with_name("other"))
    one, _ = audited(pytester, base, tuned, "-k", "aligned")
    two, again = audited(pytester, base, tuned, f"--tuned={other}", "-k", "aligned")
    told = suite_properties(one)
    assert (told["base"], told["tuned"], told["profile"]) == (str(base), str(tuned), "release")
    assert told["base_fingerprint"] != told["tuned_fingerprint"]
    assert {"version_ckptaudit", "version_torch", "version_python", "device"} <= set(told)
    assert suite_properties(two)["tuned_2"] == str(other)
    assert suite_properties(two) == suite_properties(again)


def test_the_files_are_valid(pytester: pytest.Pytester, damaged: tuple[Path, Path]) -> None:
    theirs, ours = audited(pytester, *damaged)
    strict = junit(read_json(pytester.path / "a.json"), strict=True)
    with_properties, without = schema(properties_of_cases=True), schema(properties_of_cases=False)
    for content in (theirs, ours, strict):
        with_properties.assertValid(etree.fromstring(content))
    without.assertValid(etree.fromstring(strict))
    # The schema can refuse: properties of cases are what the strict file leaves out.
    assert not without.validate(etree.fromstring(ours))


def test_the_strict_file_tells_the_properties_in_its_output(supervised: AuditResult) -> None:
    found = cases(junit(supervised, strict=True))
    assert found["aligned[model]"].properties == ()
    assert "limit: <= 0.0" in found["aligned[model]"].text.splitlines()


@pytest.mark.parametrize(
    "name", ["a\x00b", "\x1b[31m", "<&\"'>", "\ufffe\uffff", "\ud800", "]]>", "naïve\u2028模型"]
)
def test_hostile_names_leave_valid_xml(name: str) -> None:
    tensor = f"model.layers.0.{name}.weight"
    found = result(
        [
            verdict(tensor, 0.5, worst=tensor),
            verdict(f"{tensor}2", None, worst=tensor, reason=f"{tensor} has no value"),
            verdict(f"{tensor}3", None, outcome="skipped", reason=tensor),
        ],
        [measured(tensor, 0, name, 0.5)],
    )
    for strict in (False, True):
        content = junit(found, strict=strict)
        schema(properties_of_cases=not strict).assertValid(etree.fromstring(content))
        assert len(cases(content)) == 3


def test_a_hostile_tensor_name_goes_through_pytest(pytester: pytest.Pytester, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.::[x]%0A]]|`naïve模型.weight"
    for side in ("base", "tuned"):
        (tmp_path / side).mkdir()
        save_file(
            {name: torch.full((8, 8), 2.0 if side == "tuned" else 1.0)}, tmp_path / side / "model.safetensors"
        )
    theirs, ours = audited(pytester, tmp_path / "base", tmp_path / "tuned")
    assert cases(ours) == cases(theirs)
    assert {c.outcome for c in cases(theirs).values()} >= {"passed", "error"}
