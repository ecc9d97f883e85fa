"""Rules of a tokenizer that are stated in one of several places, each with what the library makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ckptaudit.findings import Finding
from tests.artifact.releases import Pair, only


def found(pair: Pair) -> Mapping[str, tuple[Finding, ...]]:
    """What is found of the pair as it is now."""
    pair.base.write()
    pair.tuned.write()
    return pair.findings()


def the_finding(pair: Pair, kind: str) -> Finding:
    (finding,) = only(found(pair), "tokenizer_changes")
    assert finding.fault == kind
    return finding


def real_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer as the library trains and saves it, with markers of turns."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    markers = ["<pad>", "<bos>", "<eos>", "<unk>", "<|start|>", "<|end|>"]
    made.train_from_iterator(["abc cab bca " * 50], trainers.BpeTrainer(vocab_size=24, special_tokens=markers))
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)


def ids_of(folder: Path) -> list[int]:
    ids: list[int] = AutoTokenizer.from_pretrained(folder)("<|start|>abc<|end|> cab cab")["input_ids"]
    return ids


def test_a_dropout_of_merges_makes_ids_random(pair: Pair) -> None:
    pair.tuned.tokenizer["model"]["dropout"] = 0.5
    assert "model.dropout" in the_finding(pair, "tokenizer rule differs").tensor


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda file: file["added_tokens"].pop(), "added tokens lost"),
        (lambda file: file["added_tokens"].append({**file["added_tokens"][5], "id": 8, "content": "c"}),
         "ordinary tokens added"),
        (lambda file: file["added_tokens"].append({**file["added_tokens"][5], "id": 9, "content": "cab c"}),
         "ids shared"),
    ],
)  # fmt: skip
def test_the_library_reads_other_ids_where_a_finding_says_so(
    change: Callable[[dict[str, Any]], object], fault: str, pair: Pair
) -> None:
    for side in (pair.base, pair.tuned):
        side.write()
        real_tokenizer(side.folder)
    before = ids_of(pair.tuned.folder)
    path = pair.tuned.folder / "tokenizer.json"
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    assert ids_of(pair.tuned.folder) != before
    assert fault in {f.fault for f in pair.findings()["tokenizer_changes"]}


def test_an_added_token_that_another_file_states_is_not_lost(pair: Pair) -> None:
    pair.tuned.tokenizer["added_tokens"] = pair.base.tokenizer["added_tokens"][:3]
    pair.tuned.tokenizer_config["added_tokens_decoder"] = {"3": {"content": "<unk>", "special": True}}
    assert "tokenizer_changes" not in found(pair)


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
def test_a_word_of_the_base_may_not_become_a_special_token(key: str, pair: Pair) -> None:
    pair.tuned.tokenizer_config[key] = ["b"]
    assert 'the first "b"' in the_finding(pair, "ordinary tokens added").detail


def test_a_new_marker_is_no_change(pair: Pair) -> None:
    pair.tuned.tokenizer["added_tokens"].append({"id": 20, "content": "<think>", "special": False})
    assert "tokenizer_changes" not in found(pair)


def test_a_new_token_may_not_have_the_id_of_another(pair: Pair) -> None:
    pair.tuned.tokenizer["added_tokens"].append({"id": 7, "content": "<think>", "special": False})
    assert "<think>" in the_finding(pair, "ids shared").detail


def test_special_tokens_that_are_split_are_a_change_where_the_base_says_nothing(pair: Pair) -> None:
    pair.tuned.tokenizer_config["split_special_tokens"] = True
    assert "split_special_tokens" in the_finding(pair, "tokenizer setting differs").tensor
    pair.tuned.tokenizer_config["split_special_tokens"] = False
    assert "tokenizer_changes" not in found(pair)


def test_two_files_that_contradict_each_other_about_a_special_token(pair: Pair) -> None:
    said = {"eos_token": "<unk>", "pad_token": {"content": "<pad>"}}
    found(pair)
    pair.tuned.put("special_tokens_map.json", said)
    (finding,) = only(pair.findings(), "special_token_changes")
    assert finding.tensor == "special_tokens_map.json:eos_token"
    pair.base.put("special_tokens_map.json", said)
    assert "special_token_changes" not in pair.findings()


def test_a_configuration_that_states_nothing_has_lost_all_that_its_base_states(pair: Pair) -> None:
    pair.tuned.config = {}
    changed = {f.tensor for f in found(pair)["config_changes"]}
    assert {"config.json:model_type", "config.json:num_hidden_layers"} <= changed
