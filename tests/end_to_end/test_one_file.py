"""A metric is one file, a check one table, a profile one line: added to a copy, each is there for every command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent.parent

METRIC = '''"""A metric of a team's own."""

from __future__ import annotations

from torch import Tensor

from ckptaudit.metrics.batch import PairBatch
from ckptaudit.metrics.matrix import metric


@metric(unit="1", scale="share", formula="#{ij : |w1| > |w0|} / (m n)", source="ours", needs="entries")
def grown_share(pair: PairBatch) -> Tensor:
    """Share of the entries that the update moves away from zero."""
    return (pair.tuned.abs() > pair.base.abs()).double().mean(dim=(1, 2))
'''

CHECK = """[[check]]
id = "grown"
claim = "No more than half of the entries grow."
source = "ours"
metric = "grown_share"
at_most = 0.5
roles = ["matrix"]
per = "layer"
breaks_when = "scale_spectrum"
remedy = "Look at the weight decay."
"""

PROFILE = 'growth = { checks = ["growth.toml"] }\n'


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, its checks and the generator of its pages, with one metric, one check and one profile more."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("ckptaudit", "checks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    for name in ("reference.py", "option_pages.py", "falls.md", "writing-checks.md"):
        shutil.copy(ROOT / "docs" / name, folder / "docs" / name)
    (folder / "ckptaudit" / "metrics" / "growth.py").write_text(METRIC)
    (folder / "checks" / "growth.toml").write_text(CHECK)
    with (folder / "checks" / "profiles.toml").open("a") as table:
        table.write(PROFILE)
    return folder


def run(copied: Path, folder: Path, *arguments: object, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copied), "CKPTAUDIT_CACHE": "off"}
    command = [sys.executable, "-P", *map(str, arguments)]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout


def grown_shares(pair: tuple[Path, Path]) -> dict[str, float]:
    """By NumPy, from the files."""
    base, tuned = (load_file(path / "model.safetensors") for path in pair)
    return {
        name: float(np.mean(np.abs(tuned[name].double().numpy()) > np.abs(weight.double().numpy())))
        for name, weight in base.items()
    }


def test_all_three_are_listed(copied: Path, tmp_path: Path) -> None:
    printed = run(copied, tmp_path, "-m", "ckptaudit", "checks").splitlines()
    at = printed.index("growth.toml")
    assert printed[at + 1] == "  grown: grown_share <= 0.5   (matrix per layer, worst)"
    assert printed[at + 2].strip() == "No more than half of the entries grow."


def test_all_three_are_documented(copied: Path, tmp_path: Path) -> None:
    run(copied, tmp_path, copied / "docs" / "reference.py")
    metrics, checks = ((copied / "docs" / name).read_text() for name in ("metrics.md", "checks.md"))
    assert "## grown_share\n\nShare of the entries that the update moves away from zero." in metrics
    assert "## Profile `growth`\n\n### grown\n" in checks
    assert "- limit: `grown_share <= 0.5`" in checks


def test_all_three_are_measured_judged_and_reported(
    copied: Path, tmp_path: Path, small_pair: tuple[Path, Path]
) -> None:
    pair = [f"--base={small_pair[0]}", f"--tuned={small_pair[1]}"]
    printed = run(
        copied,
        tmp_path,
        "-m",
        "pytest",
        *pair,
        "--audit-profile=growth",
        "--audit-json=a.json",
        "--audit-html=a.html",
    )
    result = json.loads((tmp_path / "a.json").read_text())
    measured = {m["tensor"]: m["value"] for m in result["measurements"] if m["metric"] == "grown_share"}
    assert measured == pytest.approx(grown_shares(small_pair)), "of every weight of the pair"
    assert [(v["check"], v["subject"], v["outcome"]) for v in result["verdicts"]] == [
        ("grown", "layers.0", "passed"),
        ("grown", "layers.1", "passed"),
    ]
    (check,) = result["checks"]
    assert (check["metric"], check["scale"], check["file"]) == ("grown_share", "share", "growth.toml")
    assert "grown" in printed
    assert "grown_share" in (tmp_path / "a.html").read_text()
    run(copied, tmp_path, "-m", "ckptaudit", "report", "a.json", "--html", "again.html")
    assert "grown_share" in (tmp_path / "again.html").read_text()


def test_all_three_are_proven_and_calibrated_on_the_metrics_scale(
    copied: Path, tmp_path: Path, small_pair: tuple[Path, Path]
) -> None:
    pair = [f"--base={small_pair[0]}", f"--tuned={small_pair[1]}"]
    proven = run(copied, tmp_path, "-m", "ckptaudit", "checks", copied / "checks" / "growth.toml", "--prove", *pair)
    assert proven.startswith("grown: broken by scale_spectrum at layers.0, 1 against <= 0.5")
    run(copied, tmp_path, "-m", "ckptaudit", "calibrate", "--profile=growth", "--margin=2", *pair)
    text = (tmp_path / "ckptaudit.toml").read_text()
    assert 'check = "grown"' in text
    limit = float(text.partition("at_most = ")[2].partition("\n")[0])
    worst = max(share for name, share in grown_shares(small_pair).items() if "q_proj" in name)
    odds = 2 * worst / (1 - worst)
    assert limit == pytest.approx(odds / (1 + odds), rel=1e-3)
    run(copied, tmp_path, "-m", "pytest", *pair)


def test_without_them_nobody_knows_them(tmp_path: Path) -> None:
    assert "grown" not in run(ROOT, tmp_path, "-m", "ckptaudit", "checks")
