"""BLAS libraries keep to their share of threads, also those that are loaded while it holds."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from concurrent.futures import ThreadPoolExecutor
import torch
from threadpoolctl import threadpool_info
from ckptaudit.linalg.fast import lapack
from ckptaudit.linalg.threads import blas_threads

def threads():
    return sorted(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")

before = threads()
with blas_threads(1):
    assert set(threads()) == {1}, threads()
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda _: lapack.is_available(), range(2)))
    within = threads()
after = threads()
assert len(within) > len(before), "nothing was loaded meanwhile"
assert set(within) == {1}, within
assert set(after) == set(before) == {2}, (before, after)
"""


def test_the_limit_holds_for_libraries_loaded_by_a_lane_and_ends_with_it() -> None:
    environment = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
