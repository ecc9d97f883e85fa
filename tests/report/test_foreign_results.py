"""The JSON of somebody else's audit, with attacks in every text, drives no terminal, log, page or XML parser."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from ckptaudit.errors import ReportError
from ckptaudit.report.difference_text import difference_lines
from ckptaudit.report.escaping import log_line
from ckptaudit.report.failure import explain
from ckptaudit.report.github import annotation_lines
from ckptaudit.report.html.page import render_html
from ckptaudit.report.junit import junit
from ckptaudit.report.markdown import markdown
from ckptaudit.report.terminal import render_summary
from ckptaudit.report.unheeded import unheeded
from ckptaudit.results.diff import compare
from ckptaudit.results.json_io import read_json
from ckptaudit.results.records import AuditResult
from tests.report.foreign_result import plain, poisoned

ATTACKS = {
    "terminal": "\x1b]0;owned\x07\x1b[2J\x9b1m",
    "carriage return": "gate open\r",
    "new lines": "\n\n::error file=x,line=1::forged\n##[error]forged\n",
    "workflow command": "::error::forged",
    "indented command": "  ::set-output name=a::forged",
    "pipeline command": "##vso[task.complete]##teamcity[x]##[error]",
    "right to left": "\u202e\u2066\u200f",
    "zero width": "a\u200bb\ufeff\u2060\u00ad\u3164\ufe0f\U000e0041",
    "separators": "\u2028\u2029\x85\x0b\x0c\x1c",
    "markup": "<script>alert(1)</script></textarea>]]>&amp;\"'",
    "Markdown": "|`](http://x)![x](http://y)<!-- @team #1 **b** ~~~\n# h",
    "rich": "[bold red]x[/][link=http://x]y",
    "fence": "```\n::error::x\n```",
    "command properties": "%0A::error::x,title=y:z",
}
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
                    "\ufeff\ud800-\udfff\U000e0000-\U000e01ef]")  # fmt: skip


@pytest.fixture(params=ATTACKS)
def attack(request: pytest.FixtureRequest) -> str:
    return ATTACKS[request.param]


@pytest.fixture(params=["as it is", "read back"])
def hostile(request: pytest.FixtureRequest, attack: str, tmp_path: Path) -> AuditResult:
    """As a renderer gets it from a live audit, and from a file."""
    content = poisoned(attack)
    if request.param == "as it is":
        return msgspec.convert(content, AuditResult)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    return read_json(path)


def assert_log(lines: list[str]) -> None:
    for line in lines:
        assert not UNSEEN.search(line), ascii(line)
        assert line.isprintable(), ascii(line)
        assert not line.lstrip().startswith("::"), line
        assert not re.search(r"##(vso|teamcity)?\[", line), line


@pytest.mark.parametrize("width", [40, 160])
def test_the_terminal(hostile, width):
    text = render_summary(hostile, width=width, colour=False, verbosity=1)
    assert_log(text.split("\n"))
    assert text.rpartition("\n")[2].startswith("gate CLOSED")
    coloured = render_summary(hostile, width=width, colour=True)
    assert not UNSEEN.search(re.sub(r"\x1b\[[0-9;]*m", "", coloured))


def test_explanations_and_lists(hostile):
    checks = {check.id: check for check in hostile.checks}
    for verdict in hostile.verdicts:
        assert_log(explain(verdict, checks[verdict.check]).split("\n"))
    assert_log(list(unheeded(hostile.verdicts)))


def test_the_comparison(hostile):
    other = msgspec.convert(plain(), AuditResult)
    difference = compare(hostile, other, names=("a", "b"), factor=2.0)
    assert_log(list(difference_lines(difference)))


def test_annotations_are_the_only_commands(hostile):
    for line in annotation_lines(hostile):
        found = re.fullmatch(r"::(\w+) title=([^:,]*)::(.*)", line, re.DOTALL)
        assert found is not None
        level, title, message = found.groups()
        assert level in ("error", "warning", "notice")
        assert not UNSEEN.search(title + message)
        assert "\n" not in title + message
        assert "%0A" not in message.replace("%250A", "")


def test_markdown(hostile):
    page = markdown(hostile)
    assert not UNSEEN.search(page)
    assert "<script" not in page
    assert "](http" not in page
    assert "<!--" not in page
    assert page.count("```") == 2 * page.count("Where it broke")
    tables = [line for line in page.split("\n") if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {4, 7, 8}


@pytest.mark.parametrize("strict", [False, True])
def test_junit(hostile, strict):
    root = ET.fromstring(junit(hostile, strict=strict).decode())
    texts = [text for e in root.iter() for text in (e.text or "", *e.attrib.values())]
    assert not any(UNSEEN.search(text) for text in texts)
    assert len(list(root.iter("testcase"))) == len(hostile.verdicts)
    assert len(list(root.iter("error"))) == sum(v.outcome == "error" for v in hostile.verdicts)


def test_the_page(hostile):
    page = render_html(hostile)
    drawn, _, script = page.partition("<script")
    assert not UNSEEN.search(drawn)
    assert "<script>alert" not in page
    assert page.count("alert(1)") == 0 or "\\u003cscript" in script or "&lt;script" in drawn


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "null", '"x"', "1", "{", '{"schema": 1}', '{"schema": "ckptaudit/1"}',
     '{"schema": "ckptaudit/9"}', '{"schema": "\\u001b[2J\\n::error::x"}', '{"schema": "\\ud800"}', "[" * 100_000,
     '{"a":' * 100_000, '{"schema": "' + "x" * 10_000 + '"}', "\xff", "\ufeff{}",
     '{"schema": "ckptaudit/1", "base": NaN}'],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_a_json_of_another_shape_is_one_line(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content.encode("latin-1", "replace"))
    with pytest.raises(ReportError) as caught:
        read_json(tmp_path / "x.json")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("text", "line"),
    [("::error::x", "\\x3a:error::x"), ("  ::x", "  \\x3a:x"), ("a ::b", "a ::b"), ("ours.toml::a", "ours.toml::a"),
     ("x ##[error]", "x \\x23#[error]"), ("##vso[a]", "\\x23#vso[a]"), ("## heading", "## heading"),
     ("a\rb", "a\\rb")],
)  # fmt: skip
def test_only_commands_are_changed(text, line):
    assert log_line(text) == line
