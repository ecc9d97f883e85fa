"""Collected gradients against autograd and finite differences apart from this code; resuming; bad requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ckptaudit.behavior.gradients import Request, collect
from ckptaudit.cli import main

PROBES = [
    {"prompt": "<bos>12+34=", "completion": "[64]<eos>"},
    {"text": "<bos>any person obtaining a copy"},
    {"prompt": "<bos>7%4=", "completion": "[3]<eos>", "id": "seven", "set": "task"},
]
KEPT = ("model.layers.0.self_attn.q_proj.weight", "model.layers.3.mlp.down_proj.weight", "model.norm.weight")


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probes") / "probes.jsonl"
    path.write_text("\n".join(map(json.dumps, PROBES)))
    return path


@pytest.fixture(scope="module")
def reference(fixture_pairs: Path) -> tuple[torch.nn.Module, list[torch.Tensor], list[int]]:
    """The model as transformers builds it, the probes' tokens, and how many of each are prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(fixture_pairs / "base", dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(fixture_pairs / "base")
    texts = [p.get("text") or p["prompt"] + p["completion"] for p in PROBES]
    tokens = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    return model, tokens, [len(tokenizer(p.get("prompt", ""))["input_ids"]) for p in PROBES]


def labelled_loss(model: torch.nn.Module, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    """transformers' own loss, with the prompt's labels masked."""
    labels = tokens.clone()
    labels[:, :prompt] = -100
    loss: torch.Tensor = model(input_ids=tokens, labels=labels).loss
    return loss


def request(fixture_pairs: Path, probes: Path, output: Path, what: str = "gradients", **more: Any) -> Request:
    known: dict[str, Any] = {
        "model": str(fixture_pairs / "base"),
        "data": probes,
        "output": output,
        "include": KEPT,
    }
    return Request(what=what, **{**known, **more})  # type: ignore[arg-type]


def test_gradients_are_those_of_transformers_own_loss(
    tmp_path: Path,
    fixture_pairs: Path,
    probes: Path,
    reference: tuple[torch.nn.Module, list[torch.Tensor], list[int]],
) -> None:
    done = collect(request(fixture_pairs, probes, tmp_path / "g.safetensors"))
    fisher = collect(request(fixture_pairs, probes, tmp_path / "f.safetensors", "fisher"))
    stacks, squares = load_file(tmp_path / "g.safetensors"), load_file(tmp_path / "f.safetensors")
    assert set(stacks) == set(squares) == set(KEPT)
    model, tokens, prompts = reference
    weights = dict(model.named_parameters())
    losses = []
    expected: dict[str, list[torch.Tensor]] = {name: [] for name in KEPT}
    for ids, prompt in zip(tokens, prompts, strict=True):
        model.zero_grad()
        loss = labelled_loss(model, ids, prompt)
        loss.backward()
        losses.append(float(loss.detach()))
        for name in KEPT:
            gradient = weights[name].grad
            assert gradient is not None
            expected[name].append(gradient.clone())
    assert done.mean_loss == fisher.mean_loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    for name in KEPT:
        true = torch.stack(expected[name])
        assert stacks[name].shape == true.shape
        # float32 against float64 on four layers.
        assert float((stacks[name] - true).norm() / true.norm()) < 1e-4
        mean = true.square().mean(0)
        assert float((squares[name] - mean).norm() / mean.norm()) < 1e-4


def test_gradients_are_slopes_of_the_loss(
    tmp_path: Path,
    fixture_pairs: Path,
    probes: Path,
    reference: tuple[torch.nn.Module, list[torch.Tensor], list[int]],
) -> None:
    collect(request(fixture_pairs, probes, tmp_path / "g.safetensors"))
    stacks = load_file(tmp_path / "g.safetensors")
    model, tokens, prompts = reference
    for name in KEPT:
        weight = model.get_parameter(name)
        collected = stacks[name][0].double()
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        # Norms inside the model are float32 whatever the weights are: the step must be seen above their rounding.
        direction, step = collected / collected.norm() + noise / noise.norm(), 1e-3
        with torch.no_grad():
            losses = []
            for sign in (1, -1):
                weight.add_(sign * step * direction)
                losses.append(float(labelled_loss(model, tokens[0], prompts[0])))
                weight.sub_(sign * step * direction)
        slope = (losses[0] - losses[1]) / (2 * step)
        assert float((collected * direction).sum()) == pytest.approx(slope, rel=1e-3)


class Interrupted(Exception):
    """What a killed process looks like from inside."""


def breaking_off(after: int) -> Callable[[Sequence[int]], Iterator[int]]:
    def watch(indices: Sequence[int]) -> Iterator[int]:
        for count, index in enumerate(indices):
            if count == after:
                raise Interrupted
            yield index

    return watch


@pytest.mark.parametrize("what", ["gradients", "fisher"])
@pytest.mark.parametrize(("batch_size", "after", "resumed_at"), [(1, 2, 2), (2, 1, 0), (2, 2, 2)])
def test_an_interrupted_collection_goes_on_to_the_same_bits(
    tmp_path: Path,
    fixture_pairs: Path,
    probes: Path,
    what: str,
    batch_size: int,
    after: int,
    resumed_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch of which a part is done is begun again: taken by parts, its numbers would be rounded otherwise."""
    monkeypatch.setattr("ckptaudit.behavior.gradients.SAVE_EVERY", 1)
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    collect(request(fixture_pairs, probes, whole, what, batch_size=batch_size))
    with pytest.raises(Interrupted):
        collect(request(fixture_pairs, probes, broken, what, batch_size=batch_size), breaking_off(after))
    assert not broken.exists()
    done = collect(request(fixture_pairs, probes, broken, what, batch_size=batch_size))
    assert done.resumed_at == resumed_at
    assert broken.read_bytes() == whole.read_bytes()
    assert [p.name for p in tmp_path.glob("*.part*")] == []


@pytest.mark.parametrize("change", [{"max_length": 12}, {"batch_size": 2}])
def test_a_partial_file_of_another_request_is_not_gone_on_with(
    tmp_path: Path, fixture_pairs: Path, probes: Path, change: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptaudit.behavior.gradients.SAVE_EVERY", 1)
    output = tmp_path / "g.safetensors"
    with pytest.raises(Interrupted):
        collect(request(fixture_pairs, probes, output, batch_size=1), breaking_off(1))
    assert output.with_name("g.safetensors.part.json").exists()
    asked: dict[str, Any] = {"batch_size": 1, **change}
    assert collect(request(fixture_pairs, probes, output, **asked)).resumed_at == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["holds no probe"]),
        ("{", ["line 1"]),
        ('{"text": "a", "note": "b"}', ["line 1", 'unknown key "note"']),
        ('{"text": "a"}\n{"prompt": "a"}', ["line 2", "kind prompt", '{"prompt", "completion"}']),
        ('{"text": 3}', ["line 1", "str"]),
        ('{"text": "<bos>"}', ["line 1", "no token to score"]),
    ],
)
def test_a_bad_probe_file_ends_in_one_line_and_code_4(
    tmp_path: Path, fixture_pairs: Path, content: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = tmp_path / "p.jsonl", tmp_path / "g.safetensors"
    data.write_text(content)
    code = main(
        ["collect", "gradients", f"--model={fixture_pairs / 'base'}", f"--data={data}", f"--output={output}"]
    )
    assert code == 4
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ERROR: --data")
    assert all(word in line for word in words), line
    assert not output.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--model=missing", ["--model missing", "no such folder"]),
        ("--output=g.bin", ["--output g.bin", ".safetensors"]),
        ("--output=missing/g.safetensors", ["--output", "no file can be written"]),
        ("--include=nothing*", ["--include nothing*", "for example"]),
        ("--samples=0", ["--samples 0", "at least 1"]),
        ("--batch-size=0", ["--batch-size 0", "at least 1"]),
        ("--data=missing.jsonl", ["missing.jsonl", "No such file"]),
    ],
)
def test_a_bad_request_ends_in_one_line_and_code_4(
    tmp_path: Path,
    fixture_pairs: Path,
    probes: Path,
    change: str,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [f"--model={fixture_pairs / 'base'}", f"--data={probes}", "--output=g.safetensors"]
    assert main(["collect", "fisher", *given, change]) == 4
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words), line


@pytest.mark.parametrize("brought", [(), ("tokenizer_config.json",)])
def test_a_model_without_a_tokenizer_is_refused(
    tmp_path: Path,
    fixture_pairs: Path,
    probes: Path,
    brought: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", *brought):
        shutil.copy(fixture_pairs / "base" / name, model)
    output = tmp_path / "g.safetensors"
    assert main(["collect", "gradients", f"--model={model}", f"--data={probes}", f"--output={output}"]) == 4
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"ERROR: --model {model} has no tokenizer")
    assert not output.exists()


@pytest.mark.parametrize(("dtype", "loses"), [("float16", True), ("float32", False)])
def test_what_the_stored_type_loses_is_told(
    tmp_path: Path,
    fixture_pairs: Path,
    probes: Path,
    dtype: str,
    loses: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, type_ in (("wide", "float32"), ("kept", dtype)):
        given = [f"--model={fixture_pairs / 'base'}", f"--data={probes}", f"--output={tmp_path / name}.safetensors"]
        assert main(["collect", "fisher", *given, f"--dtype={type_}"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("NOTE")]
    assert len(notes) == loses
    wide, kept = (load_file(tmp_path / f"{name}.safetensors") for name in ("wide", "kept"))
    lost = sum(int(((kept[name] == 0) & (one != 0)).sum()) for name, one in wide.items())
    share = 100 * lost / sum(one.numel() for one in wide.values())
    assert (share > 0) is loses
    if loses:
        assert notes == [
            f"NOTE: {share:.2g} % of the entries became zero as they were stored in float16; "
            "collect with --dtype float32."
        ]


def test_the_command_says_what_it_wrote(
    tmp_path: Path, fixture_pairs: Path, probes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "g.safetensors"
    given = [f"--model={fixture_pairs / 'base'}", f"--data={probes}", f"--output={output}", "--samples=2"]
    assert main(["collect", "gradients", *given, "--include=*.0.mlp*", "--dtype=bfloat16"]) == 0
    assert "gradients of 3 weights on 2 probes" in capsys.readouterr().out
    stacks = load_file(output)
    assert {t.dtype for t in stacks.values()} == {torch.bfloat16}
    assert {len(t) for t in stacks.values()} == {2}
