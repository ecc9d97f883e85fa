"""The table of families is what the script makes of them now."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.conftest import package

transformers = package("transformers")

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "architectures.md").read_text()


@pytest.mark.skipif(
    f"transformers {transformers.__version__} " not in PAGE, reason="another transformers made the table"
)
@pytest.mark.parametrize("kind", ["qwen3", "deepseek_v4", "mamba2", "gemma3n_text"])
def test_rows_are_those_the_script_writes(kind: str) -> None:
    made = runpy.run_path(str(DOCS / "architectures_table.py"))
    share = made["_share"](kind, "AutoModelForCausalLM")
    assert made["_row"](kind, share) in PAGE, "run `python docs/architectures_table.py`"
    assert share.groups["other"] == share.other.total()
