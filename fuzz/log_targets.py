"""Targets of what trainers log: rollouts of every format, and curves of every store."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.measure import measure
from ckptaudit.rollouts.quantities import metrics
from ckptaudit.rollouts.readers import open_rollouts, rollout_files
from ckptaudit.rollouts.scalars import read_scalars, scalar_files
from ckptaudit.rollouts.table import write_table
from fixtures.rollout_formats import FORMATS, made_up_samples

FACTS = RunFacts(group_size=2, max_staleness=1, clip_low=0.2, clip_high=0.2, max_response_length=8)
READINGS = 100_000
"""After so many a damaged log has shown that it can be read."""

KINDS = {
    "verl": "lines", "nemo-rl": "lines", "prime-rl": "lines", "areal": "lines", "trinity-rft-lines": "lines",
    "trl": "bytes", "trinity-rft": "bytes", "slime": "archive", "skyrl": "pickle", "ckptaudit": "bytes",
}  # fmt: skip
"""How to damage each format of rollouts."""


def read_log(folder: Path) -> None:
    """Every metric of whatever log lies there."""
    rollout_files(folder)
    for _ in islice(measure(open_rollouts(folder, FACTS), FACTS, metrics()), READINGS):
        pass


def read_curves(folder: Path) -> None:
    """Every curve of whatever store lies there."""
    scalar_files(folder)
    read_scalars(folder)


def written_log(name: str) -> Callable[[Path], Path]:
    """Two steps of two groups of two samples; the first of the format's files is damaged."""
    samples = [s for s in made_up_samples() if s["step"] < 2 and s["group"] < 2 and s["member"] < 2]

    def write(folder: Path) -> Path:
        if name == "ckptaudit":
            FORMATS["nemo-rl"](samples, folder.parent / "source")
            table = open_rollouts(folder.parent / "source", FACTS)
            write_table(folder / "rollouts.parquet", table.open(table.columns))
        else:
            FORMATS[name](samples, folder)
        return rollout_files(folder)[0]

    return write


def curve_of_trainer(folder: Path) -> Path:
    """The history of a trainer."""
    history = [{"step": step, "reward": step / 4, "grad_norm": 1.0, "loss": float("nan")} for step in range(3)]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder / "trainer_state.json"


def curve_in_lines(folder: Path) -> Path:
    """A file logger's lines."""
    lines = [
        json.dumps({"step": step, "data": {"critic/score/mean": 0.5, "actor/entropy": 1}}) for step in range(3)
    ]
    (folder / "run.jsonl").write_text("\n".join(lines))
    return folder / "run.jsonl"


def curve_in_mlflow(folder: Path) -> Path:
    """MLflow's database, with the one table that is read."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        store.execute(
            "CREATE TABLE metrics (key TEXT, value REAL, timestamp INTEGER, run_uuid TEXT, step INT, is_nan INT)"
        )
        store.executemany("INSERT INTO metrics VALUES ('reward', ?, 0, 'a', ?, 0)", [(s / 2, s) for s in range(4)])
    return folder / "mlflow.db"


def curve_in_events(folder: Path) -> Path:
    """TensorBoard's events: a step and a summary of one tag and value."""
    events = [
        _record(
            _varint_field(2, step) + _field(5, _field(1, _field(1, b"reward") + b"\x15" + struct.pack("<f", 0.5)))
        )
        for step in range(3)
    ]
    (folder / "events.out.tfevents.1").write_bytes(b"".join(events))
    return folder / "events.out.tfevents.1"


def curve_in_wandb(folder: Path) -> Path:
    """Wandb's log of histories."""
    items = [
        _field(1, _field(2, name) + _field(16, value)) for name, value in ((b"reward", b"0.5"), (b"_step", b"3"))
    ]
    record = _field(2, b"".join(items))
    data = b":W&B\xe1\xbe\x00" + (b"1234" + struct.pack("<HB", len(record), 1) + record) * 3
    (folder / "run-1.wandb").write_bytes(data)
    return folder / "run-1.wandb"


CURVES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "trainer state": ("json", curve_of_trainer),
    "json lines": ("lines", curve_in_lines),
    "mlflow": ("bytes", curve_in_mlflow),
    "events": ("bytes", curve_in_events),
    "wandb": ("bytes", curve_in_wandb),
}


def _record(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + b"1234" + data + b"1234"


def _varint_field(number: int, value: int) -> bytes:
    return bytes([number << 3, value])


def _field(number: int, content: bytes) -> bytes:
    tag = number << 3 | 2
    return (bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])) + bytes([len(content)]) + content
