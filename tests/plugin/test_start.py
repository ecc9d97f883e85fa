"""What a gate of weights loads before it judges: every package more is time that each run waits."""

from __future__ import annotations

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
