"""Worker processes and Ray actors find what one process finds, to the bit; and a killed one costs no verdict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptaudit.errors import CkptAuditError
from ckptaudit.judging.config import Config
from ckptaudit.measurement.process_workers import ProcessWorker, start_process
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import audited, prepare
from ckptaudit.pipeline.collecting import collected_result
from ckptaudit.pipeline.execution import execute
from ckptaudit.pipeline.workers import workers_of
from tests.conftest import FIXTURES, package
from tests.pipeline.moe import write_pair
from tests.pipeline.test_shards import comparable, measured, planned

SMALL: dict[str, Any] = {"profile": "integrity", "complete": False, "cache": "off"}


def pair(tuned: str = "sft", **more: Any) -> AuditOptions:
    about = {"profile": "rlvr", "cache": "off"} | more
    return AuditOptions(base=str(FIXTURES / "base"), tuned=(str(FIXTURES / tuned),), **about)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> AuditOptions:
    base, tuned = write_pair(tmp_path_factory.mktemp("moe"), layers=12, experts=8)
    return AuditOptions(base=str(base), tuned=(str(tuned),), profile="release", cache="off", complete=False)


def with_workers(options: AuditOptions, workers: str) -> AuditOptions:
    return replace(options, workers=workers)


@pytest.mark.parametrize(
    "options",
    [
        pair(exact=True),
        pair("rlvr-gentle", profile="alignguard", auxiliary={"aligned": str(FIXTURES / "rlvr-step70")}),
    ],
    ids=["exact", "groups"],
)
def test_two_processes_give_the_result_of_one_to_the_bit(options: AuditOptions) -> None:
    assert comparable(audited(with_workers(options, "2"))) == comparable(audited(options))


def test_a_process_that_is_killed_costs_no_verdict(moe: AuditOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[ProcessWorker] = []
    start = ProcessWorker.start

    def noted(self: ProcessWorker) -> Any:
        started.append(self)
        return start(self)

    monkeypatch.setattr(ProcessWorker, "start", noted)
    prepared = prepare(with_workers(moe, "2"), Config())
    done: list[int] = []

    def watch(count: int, total: int) -> None:
        if not done:
            os.kill(started[0].process_id, signal.SIGKILL)
        done.append(count)

    with workers_of(prepared.opened, prepared.plan) as workers:
        store = execute(prepared.plan, progress=watch, source=workers)
    expected = execute(prepared.plan)
    assert len(started) > 2
    assert done[-1] == sum(len(prepared.plan.jobs(u)) for u in prepared.plan.units if u.scope == "matrix")
    assert store.entries() == expected.entries()


def test_a_side_that_changes_before_the_workers_open_it_cannot_be_judged(
    small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = small_pair
    options = AuditOptions(base=str(base), tuned=(str(tuned),), workers="1", **SMALL)
    prepared = prepare(options, Config())
    with workers_of(prepared.opened, prepared.plan) as workers:
        os.utime(tuned / "model.safetensors", (1, 1))
        store = execute(prepared.plan, source=workers)
    rows = [m for entry in store.entries() if entry.unit.scope == "matrix" for m in entry.measurements]
    assert rows
    assert all(m.value is None and "has changed since" in m.remark for m in rows)


def test_a_side_that_is_gone_before_there_are_workers_is_one_line(small_pair: tuple[Path, Path]) -> None:
    base, tuned = small_pair
    prepared = prepare(AuditOptions(base=str(base), tuned=(str(tuned),), workers="1", **SMALL), Config())
    (tuned / "model.safetensors").rename(tuned / "elsewhere")
    with (
        pytest.raises(CkptAuditError, match=r"model.safetensors: cannot be read any more \(No such file"),
        workers_of(prepared.opened, prepared.plan),
    ):
        pass


def test_threads_are_set_before_numpy_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "told.py").write_text(
        "import os, sys\n"
        "assert 'numpy' not in sys.modules\n"
        "from ckptaudit.measurement.process_workers import receive, send\n"
        "receive(sys.stdin.buffer)\n"
        "import numpy, threadpoolctl\n"
        "counts = {i['num_threads'] for i in threadpoolctl.threadpool_info()}\n"
        "send(sys.stdout.buffer, repr(sorted(counts)).encode())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # what is found here is found there
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    worker = ProcessWorker(start_process(one, program="told"), b"")
    try:
        assert worker.start().result(60) == b"[1]"
    finally:
        worker.stop()


def test_the_gate_measures_by_workers(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "ckptaudit", "audit", "--base", str(FIXTURES / "base")]
    command += ["--tuned", str(FIXTURES / "rlvr-gentle"), "--audit-json", "a.json", "-q"]
    for workers, code in (("2", 0), ("2 -n 2", 4)):
        more = ["--audit-workers", *workers.split()]
        ended = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert (code == 0) or "--audit-workers" in ended.stderr
    assert json.loads((tmp_path / "a.json").read_text())["summary"]["errors"] == 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of three nodes, processes of this machine."""
    package("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    yield nodes
    import ray

    ray.shutdown()
    nodes.shutdown()


def test_shards_processes_and_a_cluster_agree_on_a_mixture_of_experts(
    moe: AuditOptions, cluster: Any, tmp_path: Path
) -> None:
    expected = comparable(audited(moe))
    plan = planned(moe)
    assert comparable(collected_result(plan, measured(plan, tmp_path, 4))) == expected
    assert comparable(audited(with_workers(moe, f"ray:{cluster.address}"))) == expected


def power_off(cluster: Any, node: Any) -> None:
    """End a node and all that runs on it, where Ray would let actors go on until they miss their node."""
    psutil = package("psutil")
    processes = psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def test_a_node_that_dies_in_mid_audit_costs_no_verdict(moe: AuditOptions, cluster: Any) -> None:
    prepared = prepare(with_workers(moe, f"ray:{cluster.address}"), Config())
    counts: list[int] = []

    def watch(count: int, total: int) -> None:
        if not counts:
            power_off(cluster, cluster.list_all_nodes()[-1])
        counts.append(count)

    with workers_of(prepared.opened, prepared.plan) as workers:
        assert workers is not None
        # All of them are there when the first task is done, so that one is asked for another on the dead node.
        workers.crew._hire(workers.crew.size)
        wait(workers.crew.starting)
        store = execute(prepared.plan, progress=watch, source=workers)
        # The lost actor's place was given to another, for which there may be no room any more.
        assert workers.crew.hired > 3
    assert store.entries() == execute(prepared.plan).entries()


def test_an_address_without_a_cluster_is_refused(moe: AuditOptions) -> None:
    package("ray")
    with pytest.raises(CkptAuditError, match="no cluster could be joined"):
        audited(with_workers(moe, "ray:127.0.0.1:1"))
