"""No setting, plug-in or conftest that lies beside a checkpoint is obeyed, however the checkpoint is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = {"pytest": ("-m", "pytest"), "audit": ("-m", "ckptaudit", "audit")}
SETTINGS = {
    "pytest.ini": "[pytest]\naddopts = -p evilplug\npythonpath = .\n",
    "tox.ini": "[pytest]\naddopts = -p evilplug\npythonpath = .\n",
    "setup.cfg": "[tool:pytest]\naddopts = -p evilplug\npythonpath = .\n",
    "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "-p evilplug"\npythonpath = ["."]\n',
    "conftest.py": "import os; open(os.environ['SENTINEL'], 'w').close()\n",
}


@pytest.fixture(params=["pytest.ini", "pyproject.toml", "conftest.py"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path, small_pair: tuple[Path, Path]) -> Path:
    """The tuned checkpoint, with a file beside it that would run a module of its folder."""
    folder = Path(shutil.copytree(small_pair[1], tmp_path / "runs" / "checkpoint-1"))
    (folder / request.param).write_text(SETTINGS[request.param])
    (folder / "evilplug.py").write_text("import os; open(os.environ['SENTINEL'], 'w').close()\n")
    return folder


def ran(module: str, words: list[str], folder: Path, sentinel: Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "SENTINEL": str(sentinel)}
    command = [sys.executable, "-P", *MODULES[module], *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def ways(base: Path, tuned: Path) -> dict[str, list[str]]:
    file = tuned / "model.safetensors"
    return {
        "a word": ["--base", str(base), "--tuned", str(tuned)],
        "joined": [f"--base={base}", f"--tuned={tuned}"],
        "a file": ["--base", str(base), "--tuned", str(file)],
        "an abbreviation": ["--base", str(base), "--tune", str(tuned)],
        "a pattern in two words": ["--base", str(base), "--tuned", f"{tuned}*"],
        "a file of a sum": ["--base", str(base), "--tuned", f"{base}+{file}"],
        "gradients": ["--base", str(base), "--tuned", str(base), "--audit-gradients", str(file)],
        "a configuration": [
            "--base",
            str(base),
            "--tuned",
            str(base),
            "--audit-config",
            str(tuned / "ckptaudit.toml"),
        ],
        "a released run": [
            "--base",
            str(base),
            "--tuned",
            str(base),
            "--audit-against",
            str(tuned / "config.json"),
        ],
        "probes": ["--base", str(base), "--tuned", str(base), "--audit-probes", str(tuned / "config.json")],
        "a pattern": ["--base", str(base), "--tuned", f"{tuned.parent}/checkpoint-*"],
        "all saves": ["--base", str(base), "--tuned", f"{tuned.parent}@all"],
        "the base": ["--base", str(tuned), "--tuned", str(base)],
        "aligned": ["--base", str(base), "--tuned", str(base), "--audit-aligned", str(tuned)],
        "fisher": ["--base", str(base), "--tuned", str(base), "--audit-fisher", str(file)],
        "a sum": ["--base", str(base), "--tuned", f"{base}+{tuned}"],
        "a word by itself": ["--base", str(base), f"--tuned={tuned}", str(tuned)],
    }


WAYS = list(ways(Path("b"), Path("t")))


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_the_checkpoint_runs(module, way, hostile, small_pair, tmp_path):
    sentinel = tmp_path / "ran"
    told = ran(module, ways(small_pair[0], hostile)[way], tmp_path / "start", sentinel)
    assert not sentinel.exists(), f"{told.stdout[-800:]}{told.stderr[-800:]}"
    assert "INTERNALERROR" not in told.stdout + told.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("start", ["the folder", "a folder below", "the folder above"])
def test_started_within_the_checkpoint_its_settings_turn_nothing_green(module, start, small_pair, tmp_path):
    """Its ckptaudit.toml waives everything; the run is broken."""
    base, _ = small_pair
    folder = Path(shutil.copytree(base, tmp_path / "runs" / "checkpoint-1"))
    (folder / "below").mkdir()
    (folder / "ckptaudit.toml").write_text(
        '[[waiver]]\ncheck = "actually-changed"\nsubject = "*"\nuntil = 2099-01-01\nreason = "no"\n'
    )
    place = {"the folder": folder, "a folder below": folder / "below", "the folder above": folder.parent}[start]
    told = ran(module, [f"--base={base}", f"--tuned={folder}"], place, tmp_path / "ran")
    assert told.returncode != 0, told.stdout[-800:]
    assert "gate open" not in told.stdout


SWITCHES = {
    "no:skipping": ["-p", "no:skipping"],
    "no:terminal": ["-p", "no:terminal"],
    "no:junitxml": ["-p", "no:junitxml"],
    "no:cacheprovider": ["-p", "no:cacheprovider"],
    "no:main": ["-p", "no:main"],
    "no:ckptaudit": ["-p", "no:ckptaudit"],
    "collect only": ["--collect-only"],
    "no such test": ["-k", "nothing-of-that-name"],
    "deselected": ["--deselect", "rlvr.toml"],
    "first failure": ["-x"],
    "quiet": ["-qqq"],
    "two outputs of one name": ["--audit-json=x", "--audit-html=x"],
}


@pytest.mark.slow
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_broken_run_stays_closed_whatever_is_switched_off(switch, small_pair, tmp_path):
    base, _ = small_pair
    words = [f"--base={base}", f"--tuned={base}", *SWITCHES[switch]]
    told = ran("pytest", words, tmp_path / "start", tmp_path / "ran")
    assert told.returncode != 0, told.stdout[-800:]
    assert "gate open" not in told.stdout
    assert "INTERNALERROR" not in told.stdout + told.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [{"PYTEST_ADDOPTS": "-p no:skipping"}, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, {"CI": "true"}],
    ids=str,
)
def test_nor_by_the_environment(variables, small_pair, tmp_path, monkeypatch):
    base, _ = small_pair
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for module in MODULES:
        told = ran(module, [f"--base={base}", f"--tuned={base}"], tmp_path / "start", tmp_path / "ran")
        assert told.returncode != 0, told.stdout[-800:]
        assert "gate open" not in told.stdout
        assert "INTERNALERROR" not in told.stdout + told.stderr
