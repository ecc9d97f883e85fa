"""What a gate of weights loads before it judges: every package more is time that each run waits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import ckptaudit.plugin.gate
from ckptaudit.metrics import METRICS
len(METRICS)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
HEAVY = {"scipy", "pyarrow", "transformers", "pandas", "sacrebleu", "peft"}


def test_the_gate_starts_without_what_other_evidence_needs(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "torch" in said.stdout.split()
    assert not HEAVY & set(said.stdout.split())


MARKED = """
import sys
import pytest
pytest.register_assert_rewrite("ckptaudit")  # as pytest does of what is installed along with a plugin
def pytest_unconfigure():
    print(*(type(sys.modules[name].__loader__).__name__ for name in ("ckptaudit.plugin", "ckptaudit.plugin.gate")))
"""


def test_the_gate_is_imported_as_it_is_installed(fixture_pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "marked.py").write_text(MARKED)
    sides = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "marked", "-k", "no such check", "--audit-cache=off", *sides],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.splitlines()[-1] == "AssertionRewritingHook SourceFileLoader", said.stdout + said.stderr
