"""Errors of the library know no front end: pytest, command line and Python each spell parameters their own way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ckptaudit
from ckptaudit.cli import main
from ckptaudit.errors import CkptAuditError

SOURCES = sorted(
    path
    for path in Path(ckptaudit.__file__).parent.rglob("*.py")
    if not {"plugin", "cli", "integrations"} & set(path.relative_to(Path(ckptaudit.__file__).parent).parts)
)

PARAMETERS = {
    "device": ("tpu", ["calibrate", "--device", "tpu"], "--device"),
    "profile": ("nope", ["calibrate", "--profile", "nope"], "--profile"),
    "cache": (__file__, ["cache", "info", "--audit-cache", __file__], "--audit-cache"),
}
"""By parameter a value that cannot be, a command that is given it, and the option by which the command has it."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_same_mistake_is_spelled_three_ways(
    pytester: pytest.Pytester,
    small_pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    base, tuned = map(str, small_pair)
    value, command, option = PARAMETERS[name]

    with pytest.raises(CkptAuditError) as caught:
        ckptaudit.audit(base, tuned, **{name: value})  # type: ignore[arg-type]
    in_python = str(caught.value)

    pair = ["--base", base, "--tuned", tuned] if command[0] == "calibrate" else []
    assert main([*command, *pair]) == 4
    on_the_command_line = capsys.readouterr().err.removeprefix("ERROR: ").rstrip()

    run = pytester.runpytest("--base", base, "--tuned", tuned, f"--audit-{name}", value)
    assert run.ret == 4
    (in_pytest,) = [line.removeprefix("ERROR: ") for line in run.errlines if line]

    assert in_python.startswith(f"{name}= {value}: ")
    assert on_the_command_line.startswith(f"{option} {value}: ")
    assert in_pytest.startswith(f"--audit-{name} {value}: ")
    rest = {text.partition(f"{value}: ")[2] for text in (in_python, on_the_command_line, in_pytest)}
    assert len(rest) == 1, "apart from the parameter it is one sentence"


def test_what_is_written_into_a_result_is_spelled_as_well(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path]
) -> None:
    base, tuned = map(str, small_pair)
    result = ckptaudit.audit(base, tuned, profile="mode_connectivity", cache="off")
    assert {v.reason for v in result.verdicts if v.outcome == "skipped"} == {"needs probes= FILE"}
    pytester.runpytest("--base", base, "--tuned", tuned, "--audit-profile=mode_connectivity", "--audit-json=a.json")
    text = (pytester.path / "a.json").read_text()
    assert "needs --audit-probes FILE" in text
    assert "probes=" not in text
    assert "‹" not in text


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(Path(ckptaudit.__file__).parent)))
def test_no_room_below_the_front_ends_writes_an_option(path: Path) -> None:
    assert not re.search(r"--(audit-[a-z]+|base|tuned|model|output|include|max-length)\b", _code(path)), (
        "name the parameter: errors.parameter()"
    )


def _code(path: Path) -> str:
    """The text without docstrings and comments, which may explain what users type."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [x for x in body if not _is_text(x)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
