"""Sides in a bucket measured by shards, by processes and by the actors of a cluster: the result of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import audited
from ckptaudit.pipeline.collecting import collected_result
from ckptaudit.results.records import AuditResult
from tests.checkpoints.sources.conftest import Bucket
from tests.checkpoints.sources.test_s3 import plain
from tests.conftest import FIXTURES, package
from tests.pipeline.test_shards import measured, planned

HERE, THERE = str(FIXTURES), "s3://bucket"


def asked(base: str, tuned: str, workers: str = "") -> AuditOptions:
    return AuditOptions(
        base=f"{base}/base", tuned=(f"{tuned}/rlvr",), profile="release", cache="off", workers=workers
    )


@pytest.fixture(scope="module")
def by_one_process() -> AuditResult:
    return audited(asked(HERE, HERE))


@pytest.mark.parametrize(("base", "tuned"), [(THERE, THERE), (HERE, THERE), (THERE, HERE)])
def test_shards(bucket: Bucket, base: str, tuned: str, tmp_path: Path, by_one_process: AuditResult) -> None:
    package("pyarrow")
    plan = planned(asked(base, tuned))
    assert plain(collected_result(plan, measured(plan, tmp_path, 4))) == plain(by_one_process)
    assert bucket.log.requests


def test_processes(bucket: Bucket, by_one_process: AuditResult) -> None:
    assert plain(audited(asked(THERE, THERE, "2"))) == plain(by_one_process)


@pytest.fixture
def cluster(bucket: Bucket) -> Iterator[Any]:
    """Two nodes, started where the environment already says how the bucket is reached."""
    package("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes
    import ray

    ray.shutdown()
    nodes.shutdown()


def test_actors(cluster: Any, by_one_process: AuditResult) -> None:
    assert plain(audited(asked(THERE, THERE, f"ray:{cluster.address}"))) == plain(by_one_process)
