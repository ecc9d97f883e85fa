"""Batched gradients against autograd on transformers' logits, one sample at a time; what cannot be batched."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ckptaudit.behavior.gradient_batches import default_size, longest_first, settled_size, taken
from ckptaudit.behavior.gradients import Request, collect
from ckptaudit.behavior.models import LanguageModel, Sample
from ckptaudit.cli import main
from ckptaudit.errors import CollectionError

WORDS = 100
LENGTHS = (5, 24, 9, 24, 17, 3, 12, 11)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(0, WORDS, (length,), generator=generator) for length in LENGTHS]
    return [Sample(line, tuple(t.tolist()), 1 + line % 2) for line, t in enumerate(tokens)]


def llama() -> Any:
    torch.manual_seed(0)
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, **heads)
    )


def gpt2(kind: type[GPT2LMHeadModel] = GPT2LMHeadModel) -> Any:
    """Its embedding is tied to its head; in float64 it is float64 throughout, norms and softmax included."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return kind(GPT2Config(vocab_size=WORDS, bos_token_id=1, eos_token_id=2, **small)).double()


def one_by_one(model: Any, samples: Sequence[Sample]) -> tuple[list[dict[str, torch.Tensor]], list[float]]:
    """Cross-entropy of transformers' logits and its backward pass, nothing padded."""
    gradients, losses = [], []
    for sample in samples:
        tokens = torch.tensor([sample.tokens])
        labels = tokens.clone()
        labels[:, : sample.first] = -100
        model.zero_grad()
        # transformers takes the loss in float32 whatever the model's type is.
        logits = model.eval()(input_ids=tokens).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:])
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    return gradients, losses


def off(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).norm() / true.norm())


# transformers takes Llama's norms and softmax in float32 whatever the model's type is.
@pytest.mark.parametrize(("build", "rounding"), [(llama, 1e-5), (gpt2, 1e-10)])
def test_a_batch_gives_each_samples_own_gradient(build: Any, rounding: float, samples: list[Sample]) -> None:
    expected, losses = one_by_one(build(), samples)
    model = LanguageModel(build(), None)
    stacks, found = model.gradients(samples, model.weights)
    assert found == pytest.approx(losses, rel=rounding)
    assert set(stacks) == set(expected[0])
    for row, gradients in enumerate(expected):
        for name, true in gradients.items():
            assert off(stacks[name][row], true) < rounding, (row, name)


def test_padding_changes_nothing(samples: list[Sample]) -> None:
    model = LanguageModel(gpt2(), None)
    short, long = samples[2], samples[1]
    beside, _ = model.gradients([short, long], model.weights)
    twice, _ = model.gradients([short, short], model.weights)
    assert all(off(beside[name][0], twice[name][0]) < 1e-10 for name in model.weights)


@pytest.mark.parametrize("what", ["gradients", "fisher"])
def test_a_collection_in_batches_is_that_of_one_by_one_in_the_files_order(
    tmp_path: Path, fixture_pairs: Path, what: str
) -> None:
    texts = [(fixture_pairs / "probes" / f"{name}.jsonl").read_text().splitlines() for name in ("retain", "task")]
    data = tmp_path / "probes.jsonl"
    data.write_text("\n".join(line for pair in zip(texts[0][:6], texts[1], strict=False) for line in pair))
    collections = []
    for size in (1, 8):
        output = tmp_path / f"{size}.safetensors"
        known: Any = {"model": str(fixture_pairs / "base"), "data": data, "include": ("*.1.*",)}
        seen: list[int] = []

        def watch(indices: Sequence[int], seen: list[int] = seen) -> Iterator[int]:
            for index in indices:
                seen.append(index)
                yield index

        done = collect(Request(what=what, output=output, batch_size=size, **known), watch)  # type: ignore[arg-type]
        assert sorted(seen) == list(range(12))
        collections.append((done.mean_loss, load_file(output)))
    (loss, alone), (batched_loss, batched) = collections
    assert batched_loss == pytest.approx(loss, rel=1e-5)
    assert set(batched) == set(alone)
    for name, true in alone.items():
        rows = zip(batched[name], true, strict=True) if what == "gradients" else [(batched[name], true)]
        assert max(off(row, expected) for row, expected in rows) < 1e-4, name


def test_neighbours_are_of_like_length(samples: list[Sample]) -> None:
    lengths = [len(samples[index].tokens) for index in longest_first(samples)]
    assert lengths == sorted(LENGTHS, reverse=True)


@pytest.mark.parametrize(("length", "size"), [(24, 8), (20_000, 1)])
def test_the_default_size_heeds_what_the_longest_probe_takes(length: int, size: int, samples: list[Sample]) -> None:
    model = LanguageModel(llama(), None)
    longest = Sample(9, (0,) * length, 1)
    assert default_size(model, [*samples, longest], model.weights) == size


class LooksAhead(GPT2LMHeadModel):
    """Every token sees the mean of all, padding included."""

    def forward(self, input_ids: torch.Tensor, **more: Any) -> Any:
        inputs = self.transformer.wte(input_ids)
        return super().forward(inputs_embeds=inputs + inputs.mean(1, keepdim=True), **more)


class Decides(GPT2LMHeadModel):
    """The way depends on the tokens."""

    def forward(self, input_ids: torch.Tensor, **more: Any) -> Any:
        return super().forward(input_ids=input_ids if input_ids.sum() > 0 else input_ids + 1, **more)


@pytest.mark.parametrize(("kind", "words"), [(LooksAhead, "is padded"), (Decides, "several in one pass")])
def test_a_model_that_cannot_be_batched_is_taken_one_by_one(
    kind: type[GPT2LMHeadModel], words: str, samples: list[Sample]
) -> None:
    said: list[str] = []
    model = LanguageModel(gpt2(kind), None)
    size = settled_size(model, samples, model.weights, 8, said.append)
    assert size == 1
    (note,) = said
    assert "one at a time" in note
    assert words in note
    expected, _ = one_by_one(gpt2(kind), samples)
    for result, gradients in zip(taken(model, samples, model.weights, size, said.append), expected, strict=True):
        assert all(off(result.gradients[name], true) < 1e-10 for name, true in gradients.items())


def test_a_model_that_fails_in_one_batch_alone_is_taken_one_by_one_from_there(samples: list[Sample]) -> None:
    said: list[str] = []
    model = LanguageModel(gpt2(Decides), None)
    results = list(taken(model, samples, model.weights, 4, said.append))
    assert len(said) == 1
    assert [result.size for result in results] == [1] * len(samples)


def test_a_model_that_can_is_left_at_the_size_asked_for(samples: list[Sample]) -> None:
    said: list[str] = []
    model = LanguageModel(llama(), None)
    assert settled_size(model, samples, model.weights, 8, said.append) == 8
    assert said == []


class Cramped(LanguageModel):
    """A device that holds no more than so many samples."""

    room = 3

    def gradients(self, samples: Sequence[Sample], weights: Any) -> Any:
        if len(samples) > self.room:
            raise torch.OutOfMemoryError("no room")
        return super().gradients(samples, weights)


def test_a_batch_that_does_not_fit_is_halved(samples: list[Sample]) -> None:
    said: list[str] = []
    model = Cramped(gpt2(), None)
    results = list(taken(model, samples, model.weights, 8, said.append))
    assert [result.size for result in results] == [2] * 8
    assert [result.ends for result in results] == [False, True] * 4
    expected, _ = one_by_one(gpt2(), samples)
    for result, gradients in zip(results, expected, strict=True):
        assert all(off(result.gradients[name], true) < 1e-10 for name, true in gradients.items())


def test_an_interrupted_collection_remembers_what_did_not_fit(
    tmp_path: Path, fixture_pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    class Watched(Cramped):
        def gradients(self, samples: Sequence[Sample], weights: Any) -> Any:
            tried.append(len(samples))
            return super().gradients(samples, weights)

    class Interrupted(Exception):
        pass

    def breaking_off(indices: Sequence[int]) -> Iterator[int]:
        yield from indices[:5]
        raise Interrupted

    monkeypatch.setattr("ckptaudit.behavior.models.LanguageModel", Watched)
    monkeypatch.setattr("ckptaudit.behavior.gradients.SAVE_EVERY", 1)
    known: Any = {"what": "fisher", "model": str(fixture_pairs / "base"), "include": ("*.1.mlp.*",), "samples": 9}
    known |= {"data": fixture_pairs / "probes" / "task.jsonl", "batch_size": 8}
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    collect(Request(output=whole, **known))
    with pytest.raises(Interrupted):
        collect(Request(output=broken, **known), breaking_off)
    tried.clear()
    assert collect(Request(output=broken, **known)).resumed_at == 4
    assert tried == [2, 2, 1]
    assert broken.read_bytes() == whole.read_bytes()


def test_a_probe_that_does_not_fit_by_itself_is_an_error(samples: list[Sample]) -> None:
    model = Cramped(gpt2(), None)
    model.room = 0
    with pytest.raises(CollectionError, match="max_length="):
        list(taken(model, samples, model.weights, 8, print))


def test_what_is_not_finite_is_blamed_on_its_probe_alone(samples: list[Sample]) -> None:
    broken = gpt2()
    with torch.no_grad():
        broken.transformer.wpe.weight[23] = torch.nan
    model = LanguageModel(broken, None)
    said: list[str] = []
    results = taken(model, samples, model.weights, 8, said.append)
    with pytest.raises(CollectionError, match="line 1: the model's loss is nan"):
        list(results)
    assert said == []


def test_the_command_says_once_why_it_goes_one_by_one(
    tmp_path: Path, fixture_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bloom's activation is a function of its own, which torch cannot vectorise."""
    folder, data, output = tmp_path / "bloom", tmp_path / "p.jsonl", tmp_path / "g.safetensors"
    BloomForCausalLM(BloomConfig(vocab_size=WORDS, hidden_size=32, n_layer=1, n_head=4)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((fixture_pairs / "base" / name).read_bytes())
    data.write_text("\n".join(json.dumps({"text": f"<bos>{n}+1=[{n + 1}]<eos>"}) for n in (1, 20, 300)))
    capsys.readouterr()
    assert main(["collect", "gradients", f"--model={folder}", f"--data={data}", f"--output={output}"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("NOTE: ")]
    assert len(notes) == 1
    assert "one at a time" in notes[0]
    assert {len(stack) for stack in load_file(output).values()} == {3}
