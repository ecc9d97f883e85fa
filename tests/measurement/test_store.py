"""Each unit of work is measured once, in one process or several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.metrics import Measurement

ROW = Measurement("w", 0, "up_proj", (2, 2), "update_sparsity", 0.5, "exact")
UNIT = Unit("run", "layers.0")


def test_a_unit_is_measured_once() -> None:
    store, calls = MeasurementStore(), []
    for _ in range(2):
        assert store.take(UNIT, lambda: calls.append(1) or [ROW]) == (ROW,)  # type: ignore[func-returns-value]
    assert calls == [1]


def test_stores_on_one_folder_share_what_they_took(tmp_path: Path) -> None:
    MeasurementStore(tmp_path).take(UNIT, lambda: [ROW])
    other = MeasurementStore(tmp_path)
    assert other.take(UNIT, lambda: []) == (ROW,)
    assert [e.unit for e in MeasurementStore(tmp_path).entries()] == [UNIT]


def test_processes_that_ask_at_once_measure_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"""
import time
from pathlib import Path
from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.store import MeasurementStore
def work():
    time.sleep(0.3)
    with open({str(log)!r}, "a") as f: f.write("x")
    return []
folder = Path({str(tmp_path / "store")!r}); folder.mkdir(exist_ok=True)
MeasurementStore(folder).take(Unit("run", "layers.0"), work)
"""
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert log.read_text() == "x"
