"""Every command that a page shows is run, with stand-ins for the reader's checkpoints, or named with a reason."""

from __future__ import annotations

import glob
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckptaudit.cli import main
from ckptaudit.cli.program import COMMANDS
from ckptaudit.cli.pytest_words import settled
from ckptaudit.pipeline.api import audit
from ckptaudit.results.json_io import write_json
from ckptaudit.results.records import AuditResult
from tests.conftest import package

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "fixtures" / "README.md"])
PROGRAMS = ("pip", "pipx", "uvx", "pytest", "ckptaudit", "make", "python", "openssl")

ELSEWHERE = {
    "pip install": "installing is what the release workflow and tests/end_to_end/alone.py do",
    "make ": "tests/test_project.py names the targets, continuous integration runs them",
    "python fixtures/": "recipes take minutes; tests/families and tests/rollouts use what they made",
    "python fuzz/": "needs atheris; tests/checkpoints/test_fuzz.py",
    "ckptaudit collect gradients": "tests/behavior/test_gradients.py",
    "ckptaudit collect fisher": "tests/behavior/test_gradients.py",
    "ckptaudit promote audit.json": "tests/release/test_promotion.py, with a registry and a server",
    "ckptaudit probes": "tests/docs/test_probes_page.py",
    "ckptaudit report audit.json --tensorboard": "tests/report/test_trackers.py",
    "ckptaudit report audit.json --mlflow": "tests/report/test_trackers.py",
    "ckptaudit report audit.json --wandb": "tests/report/test_trackers.py",
    "ckptaudit report audit.json --trackio": "tests/report/test_trackers.py",
    "ckptaudit checks --prove": "tests/cli/test_prove.py",
}
"""Commands that are not run here, by how they begin, and where they are."""

PAGES_ELSEWHERE = {
    "behavior.md": "tests/behavior/test_every_check.py and tests/behavior/test_bundled_pairs.py",
    "remote.md": "tests/checkpoints/sources/test_commands.py",
    "formats.md": "tests/checkpoints/deltas/test_sparse_deltas.py",
    "rollouts.md": "tests/rollouts/test_alone.py and tests/rollouts/test_gate.py",
    "shapes.md": "tests/judging/test_every_check.py",
    "claims.md": "tests/judging/test_every_check.py",
    "scale.md": "tests/pipeline/test_shards.py",
    "parity.md": "tests/parity/test_merged.py, tests/parity/test_soup.py and tests/parity/test_equal.py",
    "CHANGELOG.md": "history",
    "AGENTS.md": "targets of make",
}
"""Pages whose commands need inputs of their own, and the tests that have these."""


def shown(page: Path) -> list[str]:
    """The commands of a page's blocks, in order."""
    text = page.read_text()
    fenced = re.findall(r"^```(?:bash|console|sh)\n(.*?)^```", text, re.S | re.M)
    indented = re.findall(r"^    (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    lines = [line for block in fenced for line in block.splitlines()] + indented
    return [line.removeprefix("$ ").strip() for line in lines if line.removeprefix("$ ").startswith(PROGRAMS)]


RUN = [
    page
    for page in PAGES
    if page.name not in PAGES_ELSEWHERE and any(not c.startswith(tuple(ELSEWHERE)) for c in shown(page))
]


@pytest.fixture
def workshop(
    tmp_path: Path,
    fixture_pairs: Path,
    small_pair: tuple[Path, Path],
    digested_small: AuditResult,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder in which the names that pages use stand for something."""
    folder = tmp_path / "workshop"
    folder.mkdir()
    base, tuned = small_pair
    stand_ins = {
        "BASE": base,
        "base": base,
        "path/to/base": base,
        "fixtures": fixture_pairs,
        "checks": ROOT / "checks",
    }
    for name, place in stand_ins.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(place, target_is_directory=True)
    for name in ("TUNED", "tuned", "path/to/tuned", "NEW", "RL", "SFT", "GOOD1", "GOOD2", "GOOD3"):
        shutil.copytree(tuned, folder / name)
    for step in (10, 20):
        shutil.copytree(tuned, folder / "runs" / "42" / f"checkpoint-{step}")
    for name in ("audit", "before", "after", "released", "a", "b"):
        write_json(digested_small, folder / f"{name}.json")
    writing = (ROOT / "docs" / "writing-checks.md").read_text()
    for name, kind in (("ours.toml", "toml"), ("test_ours.py", "python")):
        found = re.search(rf"```{kind}\n(.*?)```", writing, re.S)
        assert found
        (folder / name).write_text(found[1])
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def digested_small(small_pair: tuple[Path, Path]) -> AuditResult:
    """An audit of the small pair."""
    return audit(*small_pair, profile="sft", cache="off", digest=True)


@pytest.mark.parametrize("page", RUN, ids=lambda p: p.name)
def test_the_commands_of_a_page_run_in_their_order(
    page: Path, workshop: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    if page.name == "evidence.md":
        package("model_signing")
    for command in shown(page):
        if command.startswith(tuple(ELSEWHERE)):
            continue
        code = performed(shlex.split(command, comments=True), pytester)
        # A closed gate is an answer, and what `diff` finds worse; a request that cannot be judged is none.
        assert code in ((0, 1) if command.split()[:2][-1] == "diff" or "--tuned" in command else (0,)), command


def performed(words: list[str], pytester: pytest.Pytester) -> int:
    """Run a command as a shell would, in this process where it is this package's."""
    program, *rest = [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    if program == "ckptaudit" and rest[0] != "audit":
        return main(rest)
    if program in ("ckptaudit", "pytest"):
        words = rest[1:] if program == "ckptaudit" else rest
        return int(pytester.runpytest_inprocess(*settled(words, Path.cwd()), "-p", "no:cacheprovider").ret)
    command = [sys.executable if program == "python" else program, *rest]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_a_page_names_is_one(page: Path) -> None:
    named = re.findall(r"`(?:python -m )?ckptaudit ([a-z]+)", page.read_text())
    named += [words[1] for words in map(str.split, shown(page)) if words[0] == "ckptaudit"]
    assert [name for name in named if name not in {*COMMANDS, "audit", "plan"}] == []


@pytest.mark.parametrize("reason", [*ELSEWHERE.values(), *PAGES_ELSEWHERE.values()])
def test_the_tests_that_run_the_others_are_there(reason: str) -> None:
    for path in re.findall(r"tests/[\w./]+\w", reason):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("begin", ELSEWHERE)
def test_no_exemption_is_left_over(begin: str) -> None:
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    assert any(command.startswith(begin) for page in pages for command in shown(page)) or begin in (
        "ckptaudit checks --prove",
    )
