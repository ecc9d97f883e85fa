"""A new user's first commands, where nothing is installed but the package and what it depends on."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.test_commands import shown
from tests.end_to_end.alone import ROOT

pytestmark = pytest.mark.slow

PAIR = "--base=fixtures/base --tuned=fixtures/rlvr-gentle"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has for pytest to find: settings, conftest.py, tests, fixtures."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("pyproject.toml", "conftest.py", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("ckptaudit", "checks", "fixtures", "tests", "docs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def told(command: str, programs: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a command of that environment prints."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CI", "VIRTUAL_ENV")}
    environment |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    return subprocess.run(
        shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_readme_s_command_opens_the_gate_in_the_clone_and_in_its_folders(programs: Path, clone: Path) -> None:
    first = re.search(r"^\$ (pytest .*)$", (ROOT / "README.md").read_text(), re.M)
    assert first
    ended = told(f"{first[1]} -k 'finite or update-size'", programs, clone)
    assert ended.returncode == 0, ended.stdout
    assert json.loads((clone / "audit.json").read_text())["summary"]["failed"] == 0
    for name in ("audit.json", "audit.xml"):
        (clone / name).unlink()
    inside = told("pytest --base=base --tuned=rlvr-gentle -k finite", programs, clone / "fixtures")
    assert inside.returncode == 0, inside.stdout
    assert "INTERNALERROR" not in inside.stdout + inside.stderr


def test_the_readme_shows_what_its_command_prints(programs: Path, clone: Path) -> None:
    block = re.search(r"^```text\n\$ (pytest [^\n]*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert block
    ended = told(f"{block[1]} --audit-cache=off", programs, clone)
    printed = iter(map(without_digits, ended.stdout.splitlines()))
    for line in block[2].splitlines():
        assert without_digits(line) in printed, f"not printed, or not in this place: {line}"


def without_digits(line: str) -> str:
    """What does not depend on the processor: the last digits of numbers do."""
    return re.sub(r"[0-9]+", "0", line)


STEPS = "--base=fixtures/base --tuned=fixtures/rlvr-step40 --tuned=fixtures/rlvr-step70"
PROBES = "--model=fixtures/base --data=fixtures/probes/task.jsonl -o g.safetensors"
EXTRAS = {
    f"pytest {PAIR} --audit-parquet=a.parquet": "parquet",
    f"pytest {PAIR} --audit-rollouts=fixtures/rollouts/healthy": "rollouts",
    f"pytest {PAIR} -n 2": "xdist",
    f"pytest {STEPS} --audit-plot=a.png": "plot",
    "ckptaudit rollouts inspect fixtures/rollouts/healthy": "rollouts",
    f"ckptaudit collect gradients {PROBES}": "collect",
    "ckptaudit attest missing.json --key=key.pem": "attest",
}


@pytest.mark.parametrize("command", EXTRAS)
def test_an_extra_that_a_command_needs_is_asked_for_in_one_line(command: str, programs: Path, clone: Path) -> None:
    ended = told(command, programs, clone)
    assert ended.returncode == 4
    (line,) = [line for line in (ended.stdout + ended.stderr).splitlines() if line.startswith("ERROR")]
    assert f"pip install 'ckptaudit[{EXTRAS[command]}]'" in line
    assert "Traceback" not in ended.stderr


def test_doctor_tells_what_is_missing_and_what_would_bring_it(programs: Path, tmp_path: Path) -> None:
    ended = told("ckptaudit doctor", programs, tmp_path)
    assert ended.returncode == 0, ended.stdout
    rows = {line.split()[0]: line for line in ended.stdout.splitlines() if line.strip()}
    assert {"python", "packages", "device", "memory", "threads", "cache", "configuration"} <= rows.keys()
    assert "nothing amiss" in ended.stdout
    assert "in force" in rows["start-up"]
    assert re.search(r"missing .*pip install 'ckptaudit\[rollouts\]'", rows["rollouts"])


def test_doctor_ends_with_1_where_something_stands_in_the_way(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "ckptaudit.toml").write_text("profile = 'nope'")
    ended = told("ckptaudit doctor", programs, tmp_path)
    assert ended.returncode == 1
    assert "1 amiss: configuration" in ended.stdout


def test_the_wheel_finds_its_checks_without_the_sources(
    programs: Path, tmp_path: Path, fixture_pairs: Path
) -> None:
    pair = f"--base={fixture_pairs / 'base'} --tuned={fixture_pairs / 'rlvr-gentle'}"
    ended = told(f"ckptaudit audit {pair} -k 'config-unchanged or update-size'", programs, tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert "gate open" in ended.stdout


def test_the_page_for_a_first_gate_holds_with_the_package_alone(
    programs: Path, tmp_path: Path, small_pair: tuple[Path, Path]
) -> None:
    here = tmp_path / "here"
    shutil.copytree(small_pair[0], here / "base")
    for step in (10, 20):
        shutil.copytree(small_pair[1], here / "runs" / "42" / f"checkpoint-{step}")
    commands = [c for c in shown(ROOT / "docs" / "first-gate.md") if not c.startswith("pip")]
    assert len(commands) >= 6
    for command in commands:
        ended = told(command, programs, here)
        assert ended.returncode in ((0, 1) if " audit " in command else (0,)), ended.stdout + ended.stderr
    assert {"audit.xml", "audit.json", "audit.html", "learned.toml", "ckptaudit.toml"} <= {
        path.name for path in here.iterdir()
    }
