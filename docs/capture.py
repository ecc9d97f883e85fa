"""Record the picture of the README: `python docs/capture.py` runs a real audit and draws what it printed."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "pictures" / "terminal.svg"
COMMAND = ["--base=fixtures/base", "--tuned=fixtures/sft", "--tb=no", "--no-header", "-rN", "--color=yes"]
WIDTH = 100


def main() -> None:
    """Run pytest, keep the audit's own section, and write it as a drawing that loads nothing from anywhere."""
    environment = os.environ | {"COLUMNS": str(WIDTH), "CKPTAUDIT_CACHE": "off"}
    run = [sys.executable, "-P", "-m", "pytest", *COMMAND]
    ended = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    printed = ended.stdout[ended.stdout.index("rlvr.toml") :]
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    shown = [word for word in COMMAND if word not in ("--no-header", "-rN", "--color=yes")]
    console.print(Text(f"$ pytest {' '.join(shown)}"))
    console.print(Text.from_ansi(printed.rstrip()))
    drawing = console.export_svg(title="ckptaudit", theme=MONOKAI, unique_id="ckptaudit")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
