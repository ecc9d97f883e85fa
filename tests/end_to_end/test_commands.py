"""The real commands, as a user types them, from a folder with nothing in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PYTEST = Path(sysconfig.get_path("scripts")) / "pytest"


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PYTEST), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def audited(folder: Path, base: Path, tuned: Path, *options: object) -> tuple[int, dict[str, int]]:
    ended = run(folder, "--base", base, "--tuned", tuned, "--audit-json", "a.json", "--junitxml=a.xml", *options)
    assert (folder / "a.xml").is_file(), ended.stdout + ended.stderr
    return ended.returncode, json.loads((folder / "a.json").read_text())["summary"]


@pytest.mark.parametrize(
    ("tuned", "profile", "code"),
    [("rlvr-gentle", "rlvr", 0), ("sft", "rlvr", 1), ("rlvr", "rlvr", 1), ("sft", "sft", 0), ("rlvr", "sft", 0)],
)
def test_the_bundled_pairs_fall_as_documented(
    tmp_path: Path, fixture_pairs: Path, tuned: str, profile: str, code: int
) -> None:
    ended, summary = audited(tmp_path, fixture_pairs / "base", fixture_pairs / tuned, "--audit-profile", profile)
    assert ended == code
    assert (summary["failed"] > 0) == bool(code)
    assert summary["errors"] == summary["skipped"] == 0


def test_an_ini_file_beside_the_gate_is_obeyed_and_one_near_the_checkpoints_is_not(
    tmp_path: Path, small_pair: tuple[Path, Path]
) -> None:
    (small_pair[0].parent / "pytest.ini").write_text("[pytest]\naddopts = -k nothing\n")
    gate = tmp_path / "gate"
    gate.mkdir()
    (gate / "pytest.ini").write_text("[pytest]\naddopts = -k spectral-drift\n")
    ended = run(gate, "--base", small_pair[0], "--tuned", small_pair[1], "-v")
    assert "rlvr.toml::spectral-drift[layers.1]" in ended.stdout
    assert "rlvr.toml::update-size[layers.1]" not in ended.stdout


def test_a_file_damaged_after_opening_loses_no_other_verdict(tmp_path: Path, small_pair: tuple[Path, Path]) -> None:
    base, tuned = small_pair
    (tmp_path / "conftest.py").write_text(
        f"""
def pytest_collection_finish(session):
    import os
    os.remove({str(tuned / "model.safetensors")!r})
    open({str(tuned / "model.safetensors")!r}, "w").close()
"""
    )
    ended = run(tmp_path, "--base", base, "--tuned", tuned, "-q")
    assert ended.returncode in (0, 1)
    assert "Traceback" not in ended.stdout + ended.stderr


HEAVY = ("torch", "numpy", "safetensors", "msgspec", "rich", "filelock", "blake3", "platformdirs")


def test_a_run_that_audits_nothing_pays_for_nothing(tmp_path: Path) -> None:
    """The plugin is loaded in every pytest run of an environment: it brings its own few light modules in."""
    (tmp_path / "test_theirs.py").write_text("def test_theirs():\n    pass\n")
    brought = modules_after("import pytest; code = pytest.main(['-q', '-p', 'ckptaudit.plugin'])", tmp_path)
    assert not brought & set(HEAVY)
    assert not brought & {"ckptaudit.pipeline.session", "ckptaudit.plugin.gate", "ckptaudit.judging.check_files"}


@pytest.mark.parametrize("command", [["--help"], ["audit", "--help"], ["cache", "info"]], ids=" ".join)
def test_commands_that_read_no_weights_load_no_torch(tmp_path: Path, command: list[str]) -> None:
    start = (
        f"import contextlib; from ckptaudit.cli import main\nwith contextlib.suppress(SystemExit): main({command})"
    )
    assert not modules_after(f"{start}\ncode = 0", tmp_path) & {"torch", "numpy", "safetensors", "msgspec", "rich"}


def modules_after(script: str, folder: Path) -> set[str]:
    """What a new process has loaded after a script, which leaves its exit code in `code`."""
    tell = "import sys; open('modules', 'w').write(' '.join(sys.modules)); sys.exit(code)"
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run([sys.executable, "-c", f"{script}\n{tell}"], cwd=folder, env=environment, check=True)
    return set((folder / "modules").read_text().split())
