"""Markdown and workflow commands: nothing in a checkpoint's names can become markup or a command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ckptaudit.report.github import AT_MOST, annotation_lines, announce
from ckptaudit.report.markdown import CUT, LIMIT, escaped, markdown
from ckptaudit.results.records import AuditResult
from tests.synthetic import large, result, verdict

HOSTILE = "a|b`c`<img src=x>[x](http://y) @team #1 *x* __y__ ~~z~~\n::error::forged %0A"


def test_the_page_says_what_closed_the_gate_and_where(supervised: AuditResult) -> None:
    page = markdown(supervised)
    assert page.startswith("## Checkpoint audit: gate closed, worst spectral-drift at layers.1, 21x the limit\n")
    assert "| spectral-drift | **FAIL** 4/4 | 0.02109 |" in page
    assert "model.layers.1.self_attn.v_proj.weight" in page
    assert re.search(r"```text\nlayer .*\n(.*\n)*?v_proj +# # # #\n", page)
    assert all(row.count(" | ") == 5 for row in page.splitlines() if row.startswith("| ") and "**FAIL**" in row)


def test_an_open_gate_is_said_to_be_open(gentle_result: AuditResult) -> None:
    assert markdown(gentle_result).startswith("## Checkpoint audit: gate open\n")


def test_a_hostile_name_is_shown_and_does_nothing() -> None:
    found = result([verdict(HOSTILE, 0.5, worst=HOSTILE, reason=HOSTILE)], tuned=("tuned",))
    for line in markdown(found).splitlines():
        assert "<img" not in line
        assert "](" not in line
        assert "@team" not in line
        assert not line.startswith("::")
    row = next(x for x in markdown(found).splitlines() if x.startswith("| drift"))
    assert row.count("|") == 7


@pytest.mark.parametrize("character", list("\\`*<>&|[]#@~!$(){}"))
def test_markup_is_escaped_as_an_entity(character: str) -> None:
    assert escaped(f"a{character}b") == f"a&#{ord(character)};b"


def test_plain_tensor_names_stay_readable() -> None:
    assert escaped("model.layers.1.self_attn.v_proj.weight") == "model.layers.1.self_attn.v_proj.weight"
    assert escaped("_x_ __init__") == "&#95;x&#95; &#95;&#95;init&#95;&#95;"


def test_the_page_keeps_to_the_limit_of_size() -> None:
    huge = result([verdict("x" * 400, 0.5, name=f"check-{i}", worst="|" * 4000) for i in range(3000)])
    assert len(markdown(huge).encode()) <= LIMIT
    short = markdown(huge, 5000)
    assert len(short.encode()) <= 5000
    assert short.endswith(CUT)


def test_at_most_ten_annotations_the_worst_first() -> None:
    found = result([verdict("layers.0", 0.001 * (2 + i), name=f"check-{i}") for i in range(15)])
    lines = list(annotation_lines(found))
    assert len(lines) == AT_MOST
    assert [re.findall(r"check-(\d+)", x)[0] for x in lines] == [str(i) for i in range(14, 4, -1)]
    assert all(x.startswith("::error title=") for x in lines)


def test_what_only_warns_is_a_warning_and_comes_after() -> None:
    found = result(
        [
            verdict("layers.0", 9.0, name="soft", severity="warn"),
            verdict("layers.0", 9.0, name="softer", severity="info"),
            verdict("layers.0", 0.002, name="hard"),
            verdict("layers.0", None, name="unknown", severity="warn", reason="a NaN"),
            verdict("layers.0", 0.5, name="forgiven", outcome="waived"),
        ]
    )
    assert [(x.split()[0], x.split("title=")[1].split()[0]) for x in annotation_lines(found)] == [
        ("::error", "hard"),
        ("::error", "unknown"),
        ("::warning", "soft"),
        ("::notice", "softer"),
    ]


def test_an_annotation_is_one_line_with_its_signs_escaped() -> None:
    (line,) = annotation_lines(result([verdict(HOSTILE, 0.5, worst=HOSTILE, tuned="a,b:c")], tuned=("a,b:c", "d")))
    title, data = re.fullmatch(r"::error title=([^:,]*)::(.*)", line).groups()  # type: ignore[union-attr]
    assert "a%2Cb%3Ac" in title
    assert "\n" not in data
    assert "%250A" in data


def test_the_summary_is_appended_within_what_is_left(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before\n" + "x" * (LIMIT - 3000))
    lines = announce(
        large(layers=4, experts=0, broken=2), {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(file)}
    )
    assert len(lines) == 1
    assert file.read_text().startswith("before\n")
    assert "Checkpoint audit" in file.read_text()
    assert file.stat().st_size <= LIMIT


def test_elsewhere_nothing_is_said(supervised: AuditResult, tmp_path: Path) -> None:
    assert announce(supervised, {"GITHUB_STEP_SUMMARY": str(tmp_path / "s.md")}) == []
    assert list(tmp_path.iterdir()) == []


def test_a_summary_that_cannot_be_written_is_a_warning(supervised: AuditResult, tmp_path: Path) -> None:
    lines = announce(supervised, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path)})
    assert lines[-1].startswith("::warning::")
