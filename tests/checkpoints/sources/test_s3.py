"""Checkpoints in a bucket: the same answers as of a folder here, few bytes, and every fault noticed."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptaudit.checkpoints import fingerprint, merge_adapter, open_checkpoint
from ckptaudit.checkpoints.sources import stores
from ckptaudit.checkpoints.sources.stores import HEAD
from ckptaudit.cli import main
from ckptaudit.errors import CheckpointError
from ckptaudit.measurement.jobs import Job, Unit
from ckptaudit.measurement.reading import read_large
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pairing.auxiliary import open_auxiliary
from ckptaudit.pipeline.api import audit
from ckptaudit.results.records import AuditResult, checkpoint_record
from tests.checkpoints.deltas.write_deltas import trl_delta
from tests.checkpoints.sources import servers
from tests.checkpoints.sources.conftest import Bucket
from tests.checkpoints.sources.servers import Request
from tests.conftest import FIXTURES, package

WEIGHTS = "model.safetensors"


def of_weights(request: Request) -> bool:
    return request.path.endswith(WEIGHTS)


def after_the_header(request: Request) -> bool:
    return of_weights(request) and not request.headers["range"].startswith("bytes=0-")


def test_tensors_of_a_bucket_are_those_of_the_folder(bucket: Bucket) -> None:
    remote, here = open_checkpoint("s3://bucket/rlvr"), load_file(FIXTURES / "rlvr" / WEIGHTS)
    assert remote.path == "s3://bucket/rlvr"
    assert remote.tensors.keys() == here.keys()
    assert all(torch.equal(remote.tensors[name].read(), tensor) for name, tensor in here.items())


def test_an_audit_of_a_bucket_is_that_of_the_folders_to_the_bit(bucket: Bucket, audited_here: AuditResult) -> None:
    remote = audit("s3://bucket/base", "s3://bucket/rlvr", profile="release")
    assert plain(remote) == plain(audited_here)


def plain(result: AuditResult) -> str:
    """A result as JSON without what may differ: paths, times, the command, fingerprints."""
    found = json.loads(msgspec.json.encode(result))
    for key in ("started", "seconds", "command"):
        found["about"].pop(key, None)
    for checkpoint in found["checkpoints"]:
        checkpoint.pop("fingerprint")
    return json.dumps(found).replace("s3://bucket", str(FIXTURES))


def test_an_adapter_in_a_bucket_merges_into_a_base_here(bucket: Bucket) -> None:
    here = merge_adapter(open_checkpoint(FIXTURES / "base"), open_checkpoint(FIXTURES / "lora"))
    both = open_checkpoint("s3://bucket/base+s3://bucket/lora")
    mixed = open_checkpoint(f"{FIXTURES / 'base'}+s3://bucket/lora")
    name = next(n for n, h in here.tensors.items() if h.low_rank is not None)
    for other in (both, mixed):
        assert torch.equal(other.tensors[name].read(), here.tensors[name].read())


def test_what_is_given_beside_the_pair_may_be_remote(bucket: Bucket) -> None:
    urls = {
        "adapter": "s3://bucket/lora",
        "aligned": "s3://bucket/rlvr",
        "parents": "s3://bucket/rlvr,s3://bucket/tuned",
    }
    given = open_auxiliary(urls, open_checkpoint("s3://bucket/base"))
    assert {name: [c.path for c in one.checkpoints] for name, one in given.given.items()} == {
        name: text.split(",") for name, text in urls.items()
    }


def test_a_sparse_delta_in_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    before, after = (load_file(FIXTURES / side / WEIGHTS) for side in ("base", "rlvr"))
    path = trl_delta(tmp_path / "delta.safetensors", before, after)
    opened = open_checkpoint(f"s3://bucket/base+{bucket.put('deltas/1.safetensors', path.read_bytes())}")
    assert all(torch.equal(opened.tensors[name].read(), tensor) for name, tensor in after.items())


def test_inspect_reads_the_header_and_nothing_else(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "s3://bucket/rlvr"]) == 0
    remote = capsys.readouterr().out
    main(["inspect", str(FIXTURES / "rlvr")])
    assert remote.replace("s3://bucket", str(FIXTURES)) == capsys.readouterr().out
    assert bucket.log.sent(WEIGHTS) == HEAD
    assert bucket.log.sent() < HEAD + 20_000


def test_neighbours_are_read_by_one_request(bucket: Bucket) -> None:
    from ckptaudit.checkpoints.sources.read_ahead import read_ahead

    remote = open_checkpoint("s3://bucket/rlvr")
    handles = sorted(remote.tensors.values(), key=lambda h: h.extent or (0, 0))[10:20]
    before = len(bucket.log.requests)
    read_ahead(handles)
    here = load_file(FIXTURES / "rlvr" / WEIGHTS)
    assert all(torch.equal(h.read(), here[h.name]) for h in handles)
    assert len(bucket.log.requests) == before + 1


def test_a_large_tensor_is_read_in_parts(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptaudit.checkpoints.sources.remote_source.PART", 70_000)
    large = torch.arange(200_000, dtype=torch.float32)
    save_file({"large.weight": large}, tmp_path / WEIGHTS)
    remote = open_checkpoint(bucket.put(f"large/{WEIGHTS}", (tmp_path / WEIGHTS).read_bytes()))
    assert torch.equal(remote.tensors["large.weight"].read(), large)
    assert len(bucket.log.requests) == 1 + 1 + 12


@pytest.mark.parametrize("fault", [servers.busy, servers.cut, servers.other_range, servers.without_content_range])
@pytest.mark.parametrize("when", [of_weights, after_the_header])
def test_what_passes_is_tried_again(bucket: Bucket, fault: servers.Fault, when: object) -> None:
    bucket.log.once(fault, when)  # type: ignore[arg-type]
    bucket.log.once(servers.busy, when)  # type: ignore[arg-type]
    name = "model.layers.1.mlp.up_proj.weight"
    read = open_checkpoint("s3://bucket/rlvr").tensors[name].read()
    assert torch.equal(read, load_file(FIXTURES / "rlvr" / WEIGHTS)[name])
    assert not bucket.log.faults


@pytest.mark.parametrize("fault", [servers.busy, servers.cut, servers.other_range])
def test_what_does_not_pass_ends_in_one_sentence(bucket: Bucket, fault: servers.Fault) -> None:
    remote = open_checkpoint("s3://bucket/rlvr")
    bucket.log.always.append(fault)
    before = len(bucket.log.requests)
    with pytest.raises(CheckpointError, match=r"s3://bucket/rlvr/model.safetensors: cannot be read .*6 attempts"):
        remote.tensors["model.norm.weight"].read()
    assert len(bucket.log.requests) - before <= 2 * stores.ATTEMPTS


def test_an_object_that_changes_between_header_and_tensors_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    old, new = torch.zeros(90_000), torch.ones(90_000)
    for tensor in (old, new):
        save_file({"w.weight": tensor}, tmp_path / f"{tensor[0]}.safetensors")
    url = bucket.put("moving/model.safetensors", (tmp_path / "0.0.safetensors").read_bytes())
    remote = open_checkpoint(url)
    bucket.put("moving/model.safetensors", (tmp_path / "1.0.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"moving/model.safetensors: the object changed while it was audited"):
        remote.tensors["w.weight"].read()
    assert any("if-match" in r.headers for r in bucket.log.requests)


def test_a_changed_object_that_the_server_sends_all_the_same_is_refused(bucket: Bucket) -> None:
    def another(request: Request, reply: servers.Reply) -> None:
        reply.headers = {k: '"another"' if k.lower() == "etag" else v for k, v in reply.headers.items()}

    remote = open_checkpoint("s3://bucket/rlvr")
    bucket.log.once(another, after_the_header)
    with pytest.raises(CheckpointError, match="the object changed"):
        remote.tensors["model.layers.1.mlp.up_proj.weight"].read()


def test_a_changed_object_is_an_error_of_the_audit_and_never_green(bucket: Bucket) -> None:
    def another(request: Request, reply: servers.Reply) -> None:
        if after_the_header(request) and "rlvr" in request.path:
            reply.status, reply.body, reply.headers = 412, b"", {"Content-Length": "0"}

    bucket.log.always.append(another)
    result = audit("s3://bucket/base", "s3://bucket/rlvr")
    assert any("the object changed" in v.reason for v in result.verdicts if v.outcome == "error")
    assert not any(v.outcome == "passed" for v in result.verdicts if v.check == "finite" and "layers" in v.subject)


def test_a_digest_is_taken_of_local_files(bucket: Bucket) -> None:
    with pytest.raises(CheckpointError, match="a digest is taken of local files"):
        checkpoint_record("tuned", open_checkpoint("s3://bucket/rlvr"), digest=True)


def test_fingerprints_rest_on_the_etag(bucket: Bucket) -> None:
    content = (FIXTURES / "rlvr" / WEIGHTS).read_bytes()
    first = fingerprint(open_checkpoint(bucket.put("marked/model.safetensors", content)))
    assert fingerprint(open_checkpoint("s3://bucket/marked/model.safetensors")) == first
    bucket.put("marked/model.safetensors", content[:-1] + b"\x01")
    assert fingerprint(open_checkpoint("s3://bucket/marked/model.safetensors")) != first


def test_the_newest_save_is_found_in_a_bucket(bucket: Bucket) -> None:
    for step in (5, 40):
        bucket.put_folder(f"run/checkpoint-{step}", FIXTURES / "rlvr")
    assert open_checkpoint("s3://bucket/run@latest").path == "s3://bucket/run/checkpoint-40"


def sharded(bucket: Bucket, folder: str, tmp_path: Path, shard: str) -> str:
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / WEIGHTS)
    bucket.put(f"{folder}/one.safetensors", (tmp_path / WEIGHTS).read_bytes())
    index = {"weight_map": {"a.weight": shard}}
    bucket.put(f"{folder}/model.safetensors.index.json", json.dumps(index).encode())
    return f"s3://bucket/{folder}"


def test_shards_beside_the_index_are_read(bucket: Bucket, tmp_path: Path) -> None:
    opened = open_checkpoint(sharded(bucket, "sharded", tmp_path, "one.safetensors"))
    assert torch.equal(opened.tensors["a.weight"].read(), torch.ones(2, 2))


@pytest.mark.parametrize(
    "shard",
    ["../sharded/one.safetensors", "/etc/passwd", "s3://bucket/sharded/one.safetensors", "a/one.safetensors"],
)
def test_an_index_cannot_point_elsewhere(bucket: Bucket, tmp_path: Path, shard: str) -> None:
    url = sharded(bucket, "pointing", tmp_path, shard)
    with pytest.raises(CheckpointError, match="outside the checkpoint's folder"):
        open_checkpoint(url)


def test_a_missing_shard_and_a_missing_folder_are_named(bucket: Bucket, tmp_path: Path) -> None:
    url = sharded(bucket, "lacking", tmp_path, "two.safetensors")
    with pytest.raises(CheckpointError, match=r"shard two.safetensors is missing"):
        open_checkpoint(url)
    with pytest.raises(CheckpointError, match="s3://bucket/nowhere: nothing is there"):
        open_checkpoint("s3://bucket/nowhere")


def test_a_damaged_header_is_refused_as_that_of_a_file(bucket: Bucket, tmp_path: Path) -> None:
    content = (FIXTURES / "rlvr" / WEIGHTS).read_bytes()
    url = bucket.put("damaged/model.safetensors", content[:-4])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        open_checkpoint(url)


def no_listing(request: Request, reply: servers.Reply) -> None:
    if "list-type" in request.path:
        reply.status, reply.body = 403, b"<Error><Code>AccessDenied</Code></Error>"
        reply.headers = {"Content-Length": str(len(reply.body)), "Content-Type": "application/xml"}


def test_a_bucket_that_may_not_be_listed_is_read_by_known_names(bucket: Bucket) -> None:
    bucket.log.always.append(no_listing)
    here, opened = open_checkpoint(FIXTURES / "rlvr"), open_checkpoint("s3://bucket/rlvr")
    assert opened.config == here.config
    assert list(opened.tensors) == list(here.tensors)


def test_a_folder_of_very_many_objects_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptaudit.checkpoints.sources.object_stores.MAX_LISTED", 1)
    with pytest.raises(CheckpointError, match="s3://bucket/base: more than 1 objects"):
        open_checkpoint("s3://bucket/base")


def test_pickles_in_a_bucket_are_read_as_data(bucket: Bucket, tmp_path: Path) -> None:
    weights = load_file(FIXTURES / "rlvr" / WEIGHTS)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    opened = open_checkpoint(bucket.put("pickled/pytorch_model.bin", (tmp_path / "pytorch_model.bin").read_bytes()))
    assert opened.format == "torch"
    assert all(torch.equal(opened.tensors[name].read(), tensor) for name, tensor in weights.items())


def test_rank_files_in_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    torch.save({"w.weight": torch.arange(6.0).view(2, 3)}, tmp_path / "one.pt")
    bucket.put("ranks/model_world_size_1_rank_0.pt", (tmp_path / "one.pt").read_bytes())
    opened = open_checkpoint("s3://bucket/ranks")
    assert opened.format == "rank files"
    assert torch.equal(opened.tensors["w.weight"].read(), torch.arange(6.0).view(2, 3))


def test_a_plan_pins_what_was_in_the_bucket(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package("pyarrow")
    bucket.put_folder("planned", FIXTURES / "rlvr")
    plan, part = tmp_path / "plan.json", tmp_path / "part.parquet"
    assert main(["plan", "--base=s3://bucket/base", "--tuned=s3://bucket/planned", "-o", str(plan)]) == 0
    bucket.put("planned/model.safetensors", (FIXTURES / "rlvr-gentle" / WEIGHTS).read_bytes())
    capsys.readouterr()
    assert main(["measure", str(plan), "--shard", "0/1", "-o", str(part)]) == 4
    assert "s3://bucket/planned/model.safetensors: has changed since the plan was made" in capsys.readouterr().err


def test_nothing_secret_is_printed(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(request: Request, reply: servers.Reply) -> None:
        reply.status, reply.body = 403, b"<Error><Code>AccessDenied</Code></Error>"
        reply.headers = {"Content-Length": str(len(reply.body)), "Content-Type": "application/xml"}

    bucket.log.always.append(refused)
    assert main(["inspect", "s3://bucket/base"]) == 4
    shown = "".join(capsys.readouterr())
    assert "access was refused" in shown
    assert not re.search("not-a-secret|Signature|AWS4", shown)


def test_both_sides_of_a_large_matrix_are_asked_for_together(bucket: Bucket, tmp_path: Path) -> None:
    for side, value in (("old", 1.0), ("new", 2.0)):
        save_file({"model.layers.0.mlp.up_proj.weight": torch.full((300, 300), value)}, tmp_path / WEIGHTS)
        bucket.put(f"wide/{side}/{WEIGHTS}", (tmp_path / WEIGHTS).read_bytes())
    pair = pair_checkpoints(open_checkpoint("s3://bucket/wide/old"), open_checkpoint("s3://bucket/wide/new"))
    together = threading.Barrier(2, timeout=10)

    def meeting(request: Request, reply: servers.Reply) -> None:
        together.wait()

    bucket.log.always.append(meeting)
    base, tuned = read_large(Job(pair.aligned[0], frozenset(), Unit("", "")))
    assert float(base.sum()) * 2 == float(tuned.sum())
