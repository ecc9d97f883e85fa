"""Help in groups, and completion as a shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptaudit.cli import main
from tests.conftest import package

GROUPS = (
    "what is judged",
    "by which checks",
    "what some checks need beside the pair",
    "how it is computed",
    "files to write",
)


def test_the_help_of_audit_has_every_option_of_the_gate_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--help"]) == 0
    said = capsys.readouterr().out
    places = [said.index(f"{title}:") for title in GROUPS]
    assert places == sorted(places)
    for option in ("--base", "--audit-profile", "--audit-rollouts", "--audit-exact", "--audit-html", "--tb", "-k"):
        assert f"  {option}" in said
    assert "Exit codes: 0 the gate is open" in said


def test_the_help_of_pytest_has_them_in_the_same_groups(pytester: pytest.Pytester) -> None:
    said = pytester.runpytest("--help").outlines
    assert [line for line in said if line.startswith("checkpoint audit: ")] == [
        f"checkpoint audit: {title}:" for title in GROUPS
    ]


def completed(line: str, tmp_path: Path, program: str = "ckptaudit") -> set[str]:
    """What a shell is offered behind this line."""
    package("argcomplete")
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    subprocess.run([sys.executable, "-m", program], env=os.environ | asked, check=True, cwd=tmp_path)
    return {word.strip() for word in answer.read_text().split("\n") if word}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ckptaudit di", {"diff"}),
        ("ckptaudit report --wa", {"--wandb"}),
        ("ckptaudit audit --audit-ht", {"--audit-html"}),
        ("ckptaudit plan --audit-mem", {"--audit-memory"}),
    ],
)
def test_commands_and_options_are_completed(line: str, words: set[str], tmp_path: Path) -> None:
    assert completed(line, tmp_path) == words


def test_pytest_completes_the_options_of_the_gate(tmp_path: Path) -> None:
    assert completed("pytest --audit-ht", tmp_path, "pytest") == {"--audit-html"}
