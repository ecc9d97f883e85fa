"""Checkpoints as other libraries write them, run on probes: the same numbers as from the plain folder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ckptaudit.behavior.causal_models import open_model, refuse_unbuildable
from ckptaudit.behavior.end_tokens import end_tokens
from ckptaudit.behavior.preparation import ProbeSet, prepare
from ckptaudit.behavior.probes import read_probes
from ckptaudit.behavior.scoring import score
from ckptaudit.checkpoints import Checkpoint, merge_adapter, open_checkpoint
from ckptaudit.errors import MeasurementError, ProbeError
from ckptaudit.pairing import pair_checkpoints
from tests.conftest import FIXTURES, package

BASE, TUNED = FIXTURES / "aligned", FIXTURES / "aligned-grpo"
WRITER = Path(__file__).with_name("write_ranks.py")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> ProbeSet:
    lines = (FIXTURES / "probes" / "aligned.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path_factory.mktemp("probes") / "probes.jsonl"
    path.write_text("\n".join(line for line in lines if "chosen" in json.loads(line))[:20_000].rpartition("\n")[0])
    return ProbeSet(str(path), tuple(read_probes(path)[:8]))


def beside(folder: Path, source: Path = TUNED, inner: str = "") -> Path:
    """Configuration and tokenizer put beside weights, or one folder further in."""
    (folder / inner).mkdir(exist_ok=True, parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder / inner)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tuned model as real libraries save it."""
    folder = tmp_path_factory.mktemp("formats")
    (folder / "ranks").mkdir()
    command = [sys.executable, str(WRITER), str(TUNED), str(folder)]
    ranks = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    said = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    state = {name: tensor for file in TUNED.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for name in ("bin", "file"):
        (folder / name).mkdir()
        torch.save(state, folder / name / "pytorch_model.bin")
    return {
        "dcp": beside(folder / "dcp"),
        "rank files": beside(folder / "ranks", inner="huggingface"),
        "pickled": beside(folder / "bin"),
        "one file": beside(folder / "file") / "pytorch_model.bin",
    }


def sums(probes: ProbeSet, base: Checkpoint, tuned: Checkpoint) -> np.ndarray[Any, Any]:
    """What the tuned model says of every text."""
    items = prepare(probes, base, tuned).items
    model = open_model(tuned, base, CPU, pair=pair_checkpoints(base, tuned))
    return np.concatenate([row.log_p for row in score(model, [text for item in items for text in item.texts])])


@pytest.fixture(scope="module")
def plain(probes: ProbeSet) -> np.ndarray[Any, Any]:
    return sums(probes, open_checkpoint(BASE), open_checkpoint(TUNED))


@pytest.mark.parametrize("name", ["dcp", "rank files", "pickled", "one file"])
def test_a_format_changes_no_number(
    saved: dict[str, Path], probes: ProbeSet, plain: np.ndarray[Any, Any], name: str
) -> None:
    other = open_checkpoint(saved[name])
    # As the base too: all that a model is run with is found beside its weights.
    assert np.array_equal(sums(probes, other, other), plain)
    assert end_tokens(other, other) == end_tokens(open_checkpoint(TUNED), open_checkpoint(BASE)) != ()


def test_a_lone_file_without_a_configuration_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(saved["one file"], tmp_path / "weights.bin")
    bare = open_checkpoint(tmp_path / "weights.bin")
    with pytest.raises(MeasurementError, match=r"no config\.json"):
        open_model(bare, bare, CPU)


def test_a_base_without_a_tokenizer_is_refused_and_a_tuned_side_without_one_gets_the_base_s(
    probes: ProbeSet, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
        shutil.copy(TUNED / name, tmp_path)
    bare, base = open_checkpoint(tmp_path), open_checkpoint(BASE)
    with pytest.raises(ProbeError, match=re.escape(f"{tmp_path} has no tokenizer")):
        prepare(probes, bare, base)
    assert prepare(probes, base, bare).items == prepare(probes, base, open_checkpoint(TUNED)).items


def test_a_configuration_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    beside(tmp_path)
    for file in TUNED.glob("*.safetensors"):
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 14}))
    with pytest.raises(MeasurementError, match=r"vocab_size 400, and model.embed_tokens.weight holds 386 rows"):
        refuse_unbuildable(open_checkpoint(tmp_path), open_checkpoint(BASE))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of the base, saved by peft with nothing beside them."""
    peft = package("peft")
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        network = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        peft.get_peft_model(network, config).save_pretrained(folder / name)
    return folder / "first", folder / "second"


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers under an old name
def test_adapters_on_both_sides_are_what_peft_runs(adapters: tuple[Path, Path], probes: ProbeSet) -> None:
    peft = package("peft")
    from transformers import AutoModelForCausalLM

    first, second = adapters
    base = open_checkpoint(f"{BASE}+{first}")
    for adapter, tuned in (
        (first, base),
        (second, merge_adapter(open_checkpoint(BASE), open_checkpoint(second))),
    ):
        network = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        reference = peft.PeftModel.from_pretrained(network, adapter).eval()
        found = sums(probes, base, tuned)
        expected = []
        for item in prepare(probes, base, tuned).items:
            for text in item.texts:
                with torch.no_grad():
                    log_p = reference(torch.tensor([text.ids])).logits[0].double().log_softmax(dim=1)
                at = torch.arange(text.start, len(text.ids))
                expected.append(log_p[at - 1, torch.tensor(text.ids)[at]].numpy())
        # The merged weights are stored in the base's precision, as peft's own merge stores them.
        assert np.abs(found - np.concatenate(expected)).max() < 0.05
    assert end_tokens(base, base) == end_tokens(open_checkpoint(BASE), open_checkpoint(BASE))
