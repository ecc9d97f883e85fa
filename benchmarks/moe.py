"""One process, four shards and a Ray cluster of three nodes on a mixture of experts.

`python -m benchmarks.moe FOLDER [PROFILE]`: 61 layers of 64 experts with tiny matrices, 11,500 tensors a side.
Prints how long each took, and whether the results are the same to the bit but for times.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec import structs

from ckptaudit.judging.config import Config
from ckptaudit.measurement.shards import Shard
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import audited, prepare
from ckptaudit.pipeline.collecting import collected_result
from ckptaudit.pipeline.shard_plans import open_planned, shard_plan
from ckptaudit.pipeline.shards import measure_shard
from ckptaudit.results.records import AuditResult
from tests.pipeline.moe import write_pair

SHARDS, NODES = 4, 3


def main(folder: Path, profile: str = "release") -> None:
    """Print a line for each way."""
    if not (folder / "tuned").is_dir():
        write_pair(folder)
    base, tuned = str(folder / "base"), str(folder / "tuned")
    options = AuditOptions(base=base, tuned=(tuned,), cache="off", profile=profile, complete=False)
    found: list[bytes] = []
    for name, way in (("one process", audited), (f"{SHARDS} shards", _sharded), (f"Ray, {NODES} nodes", _by_ray)):
        started = time.perf_counter()
        result = way(options)
        found.append(_comparable(result))
        same = "the same" if found[-1] == found[0] else "ANOTHER"
        print(
            f"{name}: {time.perf_counter() - started:.0f} s, {len(found[-1]):,} bytes of JSON, {same}", flush=True
        )


def _sharded(options: AuditOptions) -> AuditResult:
    prepared = prepare(options, Config())
    plan = shard_plan(prepared.opened, prepared.plan)
    work = open_planned(plan)
    parts = [Path(options.base).parent / f"part-{index}.parquet" for index in range(SHARDS)]
    for index, part in enumerate(parts):
        measure_shard(work, Shard(index, SHARDS), part)
    return collected_result(plan, parts)


def _by_ray(options: AuditOptions) -> AuditResult:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=1)
    try:
        return audited(replace(options, workers=f"ray:{cluster.address}"))
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _comparable(result: AuditResult) -> bytes:
    assert result.about is not None
    about = structs.replace(result.about, started="", seconds=0.0, command=())
    return msgspec.json.encode(structs.replace(result, about=about))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
