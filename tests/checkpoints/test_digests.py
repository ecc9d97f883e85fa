"""A digest of every byte: no change escapes it, and OpenSSF model signing takes the same."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from ckptaudit.checkpoints.digests import file_digests, root_digest
from ckptaudit.errors import CheckpointError
from tests.conftest import package


@pytest.fixture
def folder(fixture_pairs: Path, tmp_path: Path) -> Path:
    """A checkpoint with a folder in it, whose files sort otherwise by letters than by parts."""
    copy = Path(shutil.copytree(fixture_pairs / "base", tmp_path / "model"))
    for name in ("a/x.txt", "a.txt", "a-b.txt", "B.txt"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(name)
    return copy


def test_each_file_has_its_sha256(folder: Path) -> None:
    found = {file.name: file.sha256 for file in file_digests(folder)}
    there = [path for path in folder.rglob("*") if path.is_file()]
    assert found == {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in there}


def test_model_signing_takes_the_same_root(folder: Path) -> None:
    package("model_signing")
    from model_signing import hashing

    manifest = hashing.Config().hash(folder)
    resources = list(manifest.resource_descriptors())
    files = file_digests(folder)
    assert [(r.identifier, r.digest.digest_hex) for r in resources] == [(f.name, f.sha256) for f in files]
    assert root_digest(files) == hashlib.sha256(b"".join(r.digest.digest_value for r in resources)).hexdigest()


def test_a_single_byte_that_no_fingerprint_samples_changes_it(folder: Path) -> None:
    before = root_digest(file_digests(folder))
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-70_001] ^= 1
    weights.write_bytes(content)
    assert root_digest(file_digests(folder)) != before


def test_a_file_more_or_under_another_name_is_another_list(folder: Path) -> None:
    before = file_digests(folder)
    (folder / "a.txt").rename(folder / "c.txt")
    assert file_digests(folder) != before
    (folder / "c.txt").rename(folder / "a.txt")
    assert file_digests(folder) == before
    (folder / "more").write_text("")
    assert file_digests(folder) != before


def test_signatures_and_what_git_keeps_are_no_part_of_the_model(folder: Path) -> None:
    before = file_digests(folder)
    (folder / ".git").mkdir()
    for name in (".git/HEAD", ".gitattributes", "model.sig", "audit.intoto.json", "evidence.json"):
        (folder / name).write_text("x")
    assert file_digests(folder, ["evidence.json"]) == before
    (folder / "a" / "model.sig").write_text("x")
    assert file_digests(folder, ["evidence.json"]) != before, "deeper down such a name means nothing"


def test_a_file_alone_and_links_to_files(folder: Path) -> None:
    weights = folder / "model.safetensors"
    (one,) = file_digests(weights)
    assert (one.name, one.sha256) == (".", hashlib.sha256(weights.read_bytes()).hexdigest())
    before = file_digests(folder)
    weights.rename(folder.parent / "blob")
    weights.symlink_to(folder.parent / "blob")
    assert file_digests(folder) == before


def test_what_cannot_be_read_to_its_end_is_refused(folder: Path) -> None:
    (folder / "elsewhere").symlink_to(folder / "a")
    with pytest.raises(CheckpointError, match=r"elsewhere: a link to a folder"):
        file_digests(folder)
    (folder / "elsewhere").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(CheckpointError, match=r"pipe.*a pipe, not a regular file"):
        file_digests(folder)
    (folder / "pipe").unlink()
    (folder / "gone").symlink_to(folder / "nowhere")
    with pytest.raises(CheckpointError, match=r"gone.*No such file"):
        file_digests(folder)


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no file"):
        file_digests(tmp_path)
