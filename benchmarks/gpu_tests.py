"""The part of `on_gpu` that runs the tests which need a device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import torch

from benchmarks.gpu_figures import Run

QUICKLY_TESTED = ("tests/linalg/test_products.py",)

TESTED = ("tests/linalg", "tests/metrics", "tests/pipeline/test_devices.py")

FAILURES = 20

TESTERS = 6
"""Processes of the tests at most: each has its own context on the card."""

RESERVE = 30
"""Seconds kept for pytest to end and report."""


def tests(run: Run) -> None:
    """The tests that need a device; on a CPU the same ones there."""
    report = run.scratch / "tests.xml"
    marks = "gpu" if torch.device(run.device).type == "cuda" else "not gpu"
    where = QUICKLY_TESTED if run.quick else TESTED
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "default",
        f"--junitxml={report}",
        "-m",
        marks,
    ]
    # A warning that only another torch gives is no failure of a device.
    if find_spec("xdist") is not None:
        command += ["-n", str(1 if run.quick else min(TESTERS, os.cpu_count() or 1))]
    process = subprocess.Popen([*command, "--continue-on-collection-errors", *where])
    try:
        code = process.wait(max(1.0, run.left - RESERVE))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest reports what it has
        run.fact("stopped", "before all tests had run")
        code = process.wait(RESERVE - 3)
    run.fact("exit code of pytest", code)
    if report.is_file():
        _count(run, report)
    if code not in (0, 2):
        sys.exit(f"pytest ended with {code}")


def _count(run: Run, report: Path) -> None:
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [(case, child) for case in cases for child in case if child.tag in ("failure", "error")]
    skipped = [child for case in cases for child in case if child.tag == "skipped"]
    run.figure("failed", len(bad), "tests")
    run.figure("skipped", len(skipped), "tests")
    run.figure("passed", len(cases) - len(bad) - len(skipped), "tests")
    run.fact("reasons of skipping", sorted({child.get("message", "") for child in skipped})[:FAILURES])
    named = {f"{case.get('classname')}::{case.get('name')}": (child.text or "")[-800:] for case, child in bad}
    run.fact("failures", dict(list(named.items())[:FAILURES]))
