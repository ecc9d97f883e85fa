"""Actors that take a GPU each: on a cluster that says it has some, as there is none to try it on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from ckptaudit.errors import MeasurementError
from ckptaudit.judging.config import Config
from ckptaudit.measurement.ray_workers import RayCluster
from ckptaudit.measurement.shard_plan import parse_plan
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import audited, prepare
from ckptaudit.pipeline.sent_work import Assignment
from ckptaudit.pipeline.workers import _of_actors, workers_of
from tests.conftest import package
from tests.pipeline.moe import write_pair
from tests.pipeline.test_shards import comparable


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> AuditOptions:
    base, tuned = write_pair(tmp_path_factory.mktemp("moe"), layers=2, experts=4, dense=1)
    return AuditOptions(base=str(base), tuned=(str(tuned),), profile="integrity", cache="off", complete=False)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster whose second node claims two GPUs."""
    package("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
    nodes.add_node(num_cpus=4, num_gpus=2)
    yield str(nodes.address)
    import ray

    ray.shutdown()
    nodes.shutdown()


def test_each_actor_has_a_gpu_to_itself_and_there_are_no_more_than_gpus(address: str) -> None:
    def tell(spec: bytes) -> tuple[str, Callable[[bytes], bytes]]:
        return "", lambda task: os.environ["CUDA_VISIBLE_DEVICES"].encode()

    cluster = RayCluster(address)
    try:
        assert cluster.resources() == (5, 2)
        workers = [cluster.worker(tell, b"", threads=1, gpu=True) for _ in range(2)]
        assert [worker.start().result(60) for worker in workers] == [b"", b""]
        assert {worker.submit(b"").result(60) for worker in workers} == {b"0", b"1"}
        third = cluster.worker(tell, b"", threads=1, gpu=True)
        assert not wait([third.start()], 2).done
        for worker in (*workers, third):
            worker.stop()
    finally:
        cluster.close()


def test_a_cluster_with_gpus_gives_the_result_of_one_process(address: str, asked: AuditOptions) -> None:
    spread = replace(asked, workers=f"ray:{address}")
    prepared = prepare(spread, Config())
    with workers_of(prepared.opened, prepared.plan) as workers:
        assert workers is not None
        assert workers.crew.size == 2
    assert comparable(audited(spread)) == comparable(audited(asked))


class Noting:
    """A cluster that keeps what workers are asked for."""

    def __init__(self, gpus: int) -> None:
        self.gpus, self.wanted = gpus, list[tuple[str, bool]]()

    def resources(self) -> tuple[int, int]:
        return 8, self.gpus

    def worker(self, open_work: object, spec: bytes, *, threads: int, gpu: bool) -> Any:
        plan = msgspec.msgpack.decode(spec, type=Assignment).plan
        self.wanted.append((parse_plan(plan, "spec").options.device, gpu))


@pytest.mark.parametrize(
    ("device", "here", "gpus", "sent"),
    [
        ("cuda:1", "cuda:1", 2, ("cuda", True)),
        ("auto", "cuda", 2, ("cuda", True)),
        ("auto", "cpu", 2, ("auto", True)),
        ("auto", "cpu", 0, ("auto", False)),
        ("cpu", "cpu", 2, ("cpu", False)),
    ],
)
def test_an_actor_is_told_the_device_as_it_sees_it(
    asked: AuditOptions, device: str, here: str, gpus: int, sent: tuple[str, bool]
) -> None:
    prepared = prepare(asked, Config())
    options = replace(asked, device=device)
    opened = replace(prepared.opened, options=options, device=torch.device(here))
    cluster: Any = Noting(gpus)
    _of_actors(opened, prepared.plan, cluster).hire()
    assert cluster.wanted == [sent]


def test_a_cluster_without_gpus_is_refused_where_one_is_asked_for(asked: AuditOptions, tmp_path: Path) -> None:
    prepared = prepare(asked, Config())
    opened = replace(prepared.opened, device=torch.device("cuda"))
    cluster: Any = Noting(0)
    with pytest.raises(MeasurementError, match="8 CPUs and 0 GPUs, and a worker needs a GPU"):
        _of_actors(opened, prepared.plan, cluster)
