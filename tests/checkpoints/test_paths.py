"""What a user may type, and what they are told when it is not quite it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit.artifact.known_names import BINARY, JSON_NAMES, TEXT_NAMES
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.checkpoints.paths import SETTINGS
from ckptaudit.errors import CheckpointError


def save(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"a.weight": torch.full((2, 2), value)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "steps", [("checkpoint-5", "checkpoint-40", "checkpoint-300"), ("global_step_9", "global_step_10")]
)
def test_latest_is_the_newest_by_step_and_says_so(steps, tmp_path):
    for value, step in enumerate(steps):
        save(tmp_path / step, float(value))
    (tmp_path / "checkpoint-9999.log").write_text("no folder")
    checkpoint = open_checkpoint(f"{tmp_path}@latest")
    assert checkpoint.path == str(tmp_path / steps[-1])
    assert checkpoint.tensors["a.weight"].read()[0, 0] == len(steps) - 1


def test_the_folder_above_suggests_latest(tmp_path):
    save(tmp_path / "checkpoint-100")
    save(tmp_path / "checkpoint-200")
    with pytest.raises(CheckpointError, match=r"2 saves and no weights of its own.*@latest for checkpoint-200"):
        open_checkpoint(tmp_path)


def test_latest_of_a_folder_without_saves_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint-N"):
        open_checkpoint(f"{tmp_path}@latest")
    with pytest.raises(CheckpointError, match="no such directory"):
        open_checkpoint(f"{tmp_path}/gone@latest")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub cache with one model, and no network."""
    blobs = tmp_path / "models--org--tiny" / "blobs"
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({"a.weight": torch.ones(2, 2)}, blobs / "weights")
    (blobs / "config").write_text('{"tie_word_embeddings": true}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    (snapshot / "config.json").symlink_to("../../blobs/config")
    refs = tmp_path / "models--org--tiny" / "refs"
    refs.mkdir()
    for name in ("main", "step-9"):
        (refs / name).write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.filterwarnings("ignore::Warning:huggingface_hub.*")
@pytest.mark.parametrize("name", ["org/tiny", "org/tiny@step-9"])
def test_a_hub_id_is_read_from_the_cache(name, hub, monkeypatch):
    monkeypatch.chdir(hub)
    checkpoint = open_checkpoint(name)
    assert checkpoint.ties_embeddings
    assert checkpoint.tensors["a.weight"].read().sum() == 4
    assert checkpoint.path.endswith("a" * 40)


def test_a_snapshot_folder_of_symlinks_is_read_as_a_folder(hub):
    assert open_checkpoint(hub / "models--org--tiny" / "snapshots" / ("a" * 40)).ties_embeddings


@pytest.mark.filterwarnings("ignore::Warning:huggingface_hub.*")
@pytest.mark.parametrize("name", ["org/other", "org/tiny@v2"])
def test_an_unknown_hub_id_offline_is_one_clear_line(name, hub):
    with pytest.raises(CheckpointError, match="no such path, and the Hugging Face hub gave no model") as caught:
        open_checkpoint(name)
    assert "\n" not in str(caught.value)


def test_downloads_ask_for_weights_and_settings_alone(monkeypatch, tmp_path):
    asked: list[list[str]] = []

    def snapshot_download(name, *, revision, allow_patterns):
        assert (name, revision) == ("org/tiny", "v1")
        asked.append(allow_patterns)
        (tmp_path / "org").mkdir(exist_ok=True)
        return str(tmp_path / "org")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match="directory is empty"):
        open_checkpoint("org/tiny@v1")
    assert [patterns[0] for patterns in asked] == ["*.safetensors", "*.bin"]
    assert not any(pattern.endswith((".py", "*")) for patterns in asked for pattern in patterns)


@pytest.mark.parametrize(
    "name", [*JSON_NAMES, *TEXT_NAMES, *BINARY, "qwen.tiktoken", "model.safetensors.index.json"]
)
def test_downloads_ask_for_every_file_that_the_artifact_checks_judge(name):
    assert any(fnmatchcase(name, pattern) for pattern in SETTINGS)


@pytest.mark.parametrize(
    "text", ["gone", "/gone/model", "./gone/model", "a/b/c", "org/", "../org/x", "a b/c", "s3:/org/x"]
)
def test_what_is_no_hub_id_never_asks_the_hub(text, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match="no such file or directory"):
        open_checkpoint(text)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["latest", "zero_to_fp32.py"], "DeepSpeed ZeRO.*zero_to_fp32.py"),
        (["bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], "DeepSpeed ZeRO"),
        (["mp_rank_00_model_states.pt"], "DeepSpeed ZeRO"),
        (["model-q4.gguf"], "GGUF"),
        (["tf_model.h5"], "TensorFlow or Flax"),
        (["a.safetensors", "b.safetensors"], "several files of weights"),
        (["a.pt", "b.pt"], "several files of weights"),
        (["optimizer.pt"], "no weights here"),
        (["README.md"], "no weights here"),
        ([], "directory is empty"),
    ],
    ids=str,
)
def test_folders_that_are_not_read_say_what_to_do(files, words, tmp_path):
    for name in files:
        (tmp_path / name).write_bytes(b"not read")
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["global_step100/mp_rank_00_model_states.pt", "model-q4.gguf", "notes.txt"])
def test_files_that_are_not_read_say_what_to_do(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"not read")
    with pytest.raises(CheckpointError, match=r"DeepSpeed|GGUF|not a file of weights by its name"):
        open_checkpoint(tmp_path / name)


def test_a_deepspeed_folder_with_gathered_weights_is_read(tmp_path):
    save(tmp_path)
    (tmp_path / "zero_to_fp32.py").write_text("")
    (tmp_path / "latest").write_text("global_step10")
    assert list(open_checkpoint(tmp_path).tensors) == ["a.weight"]


def test_safetensors_come_before_pickles(tmp_path):
    save(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    assert open_checkpoint(tmp_path).format == "safetensors"


def test_sharded_safetensors_are_read_through_their_index(tmp_path):
    for shard in "ab":
        save_file({f"{shard}.weight": torch.ones(2, 2)}, tmp_path / f"model-{shard}.safetensors")
    index = {"metadata": {}, "weight_map": {f"{s}.weight": f"model-{s}.safetensors" for s in "ab"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert list(open_checkpoint(tmp_path).tensors) == ["a.weight", "b.weight"]
    assert list(open_checkpoint(tmp_path / "model.safetensors.index.json").tensors) == [
        "a.weight",
        "b.weight",
    ]


def test_importing_the_package_does_not_import_torch():
    code = "import sys, ckptaudit.checkpoints; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_path_is_shown_as_it_was_typed(tmp_path, monkeypatch):
    save(tmp_path / "runs" / "x")
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("runs/x").path == "runs/x"
    assert re.search("x$", open_checkpoint(Path("runs") / "x").path)
