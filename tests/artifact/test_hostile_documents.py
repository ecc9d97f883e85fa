"""Whatever lies beside the weights: a finding or one line of CheckpointError, never a traceback, never a hang."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptaudit.artifact.json_documents import read_json
from ckptaudit.artifact.wording import shown
from ckptaudit.errors import CheckpointError
from ckptaudit.findings import Finding
from tests.artifact.releases import Pair, findings_of

BESIDE = [
    "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "chat_template.json", "adapter_config.json",
]  # fmt: skip

BROKEN = {
    "empty": b"",
    "cut": b'{"a": [1, 2',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "no object": b"[1, 2]",
    "deep": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "rather deep": b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
    "a number of many digits": b'{"a": ' + b"9" * 100_000 + b"}",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_document_is_a_finding(pair: Pair, name: str, kind: str) -> None:
    (pair.tuned.write() / name).write_bytes(BROKEN[kind])
    found = pair.findings()["document_faults"]
    assert [f.tensor for f in found] == [name]
    assert found[0].detail.isprintable()
    assert len(found[0].detail) < 300
    assert ("git lfs pull" in found[0].detail) == (kind == "a pointer")


def test_a_directory_and_a_pipe_where_files_are_expected(pair: Pair) -> None:
    folder = pair.tuned.write()
    for name in ("tokenizer.json", "generation_config.json"):
        (folder / name).unlink()
    (folder / "tokenizer.json").mkdir()
    os.mkfifo(folder / "generation_config.json")
    os.mkfifo(folder / "chat_template.jinja")
    (folder / "tokenizer.model").symlink_to(folder / "nowhere")
    faults = {f.tensor: f.detail for f in pair.findings()["document_faults"]}
    assert set(faults) == {"tokenizer.json", "generation_config.json", "chat_template.jinja"}
    assert "directory" in faults["tokenizer.json"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors.index.json"])
def test_a_pipe_beside_the_weights(pair: Pair, name: str) -> None:
    os.mkfifo(pair.tuned.write() / name)
    assert set(pair.findings()) <= {"conflicting_weight_files"}


def test_a_key_that_occurs_twice(pair: Pair) -> None:
    text = json.dumps(pair.tuned.config)[:-1] + ', "rms_norm_eps": 0.1}'
    (pair.tuned.write() / "config.json").write_text(text)
    found = pair.findings()
    assert [f.tensor for f in found["document_faults"]] == ["config.json:rms_norm_eps"]
    assert "0.1" in found["config_changes"][0].detail


def test_a_number_that_json_does_not_know(pair: Pair) -> None:
    (pair.tuned.write() / "generation_config.json").write_text('{"temperature": NaN}')
    found = pair.findings()
    assert "NaN" in found["document_faults"][0].detail
    assert "generation_config.json:temperature" in [f.tensor for f in found["generation_config_changes"]]


@pytest.mark.parametrize("text", ["{", "[]", '{"a": NaN}', "null"])
def test_a_broken_configuration_is_one_line(pair: Pair, text: str) -> None:
    (pair.tuned.write() / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        pair.open()
    assert "\n" not in str(caught.value)


def test_long_and_strange_names_stay_on_one_short_line(pair: Pair) -> None:
    pair.tuned.config |= {"rope_" + "x" * 100_000: 5, "attention\n\x1b[2J": "y" * 100_000}
    pair.tuned.tokenizer["model"]["vocab"] |= {"\x1b[2J\n" * 50: 4, "a": 21}
    (pair.tuned.write() / ("n" * 240 + ".safetensors")).write_bytes(b"")
    for findings in pair.findings().values():
        for finding in findings:
            assert f"{finding.tensor}{finding.fault}{finding.detail}".isprintable()
            assert len(finding.tensor) < 300
            assert len(finding.detail) < 700


def test_many_findings_are_counted_and_cut(pair: Pair) -> None:
    pair.tuned.config |= {f"attention_{i}": 3 for i in range(5000)}
    found = pair.findings()["config_changes"]
    assert len(found) == 100
    assert found[-1].detail == "4,901 are left out"


def test_time_is_linear_in_the_vocabulary(pair: Pair) -> None:
    """A vocabulary of 200,000 tokens, all of them moved, takes seconds at most."""
    for side, shift in ((pair.base, 0), (pair.tuned, 1)):
        side.tokenizer["model"]["vocab"] = {f"t{i}": i + shift for i in range(200_000)}
        side.tokenizer["model"]["merges"] = [f"a b{i + shift}" for i in range(100_000)]
    evidence = pair.open()
    start = time.perf_counter()
    found = findings_of(evidence)
    assert time.perf_counter() - start < 5
    assert "200,000 tokens" in found["tokenizer_changes"][0].detail


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3)
)
KEYS = st.sampled_from([
    "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim", "rope_parameters",
    "rope_scaling", "rope_theta", "layer_types", "text_config", "vision_config", "tie_word_embeddings", "dtype",
    "eos_token_id", "quantization_config", "model_type", "architectures", "num_experts", "auto_map",
    "added_tokens", "model", "vocab", "merges", "chat_template", "eos_token", "temperature", "content", "id",
    "added_tokens_decoder", "weight_map", "normalizer", "transformers_version", "num_nextn_predict_layers",
])  # fmt: skip
documents = st.dictionaries(KEYS, values | st.dictionaries(KEYS, values, max_size=3), max_size=6)
FILES = ["config.json", *BESIDE[:-1], "pytorch_model.bin.index.json"]


@given(changes=st.dictionaries(st.sampled_from(FILES), documents, max_size=3), on_base=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wrong_types_anywhere_are_findings_or_one_line(
    changes: dict[str, dict[str, Any]], on_base: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    pair = Pair(folder)
    tuned = pair.tuned.write()
    pair.base.write()
    side = pair.base if on_base else pair.tuned
    for name, contents in changes.items():
        whole = {**json.loads((tuned / name).read_text()), **contents} if (tuned / name).is_file() else contents
        side.put(name, whole)
    try:
        found = findings_of(pair.open())
    except CheckpointError as error:
        found = {"": (Finding("error", "one line", str(error)),)}
    finally:
        shutil.rmtree(folder)
    assert all(f.tensor and f.fault and f.detail.isprintable() for own in found.values() for f in own)


@given(st.dictionaries(st.text(max_size=6), values, max_size=5))
@settings(max_examples=60, deadline=None)
def test_reading_gives_what_was_written(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    read = read_json(path, "any.json")
    assert read.problem == ""
    assert json.dumps(read.value) == json.dumps(value)
    assert shown(value).isprintable()


@given(order=st.permutations(range(12)), cache=st.booleans(), dropout=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_order_and_harmless_keys_never_matter(
    order: list[int], cache: bool, dropout: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pair = Pair(tmp_path_factory.mktemp("order"))
    items = list(pair.tuned.config.items())
    pair.tuned.config = dict([items[i] for i in order] + items[12:])
    pair.tuned.config |= {"use_cache": cache, "attention_dropout": dropout, "_name_or_path": "elsewhere"}
    assert pair.findings() == {}
