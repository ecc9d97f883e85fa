"""The program in a Python that cannot import torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def told(*words: str, cwd: Path, code: int = 0) -> str:
    """What `ckptaudit WORDS` prints where torch is a module that raises."""
    broken = cwd / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "torch.py").write_text('raise ImportError("no torch here")')
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join([str(broken), str(ROOT)]), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "ckptaudit", *words]
    ended = subprocess.run(command, cwd=cwd, env=surroundings, text=True, capture_output=True, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout
