"""Probes as ids, against the tokenizer itself, lm-eval's rule for the boundary and TRL's for conversations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Native
from tokenizers import models, pre_tokenizers

from ckptaudit.behavior.encoding import MERGED, NOTHING, REWRITTEN, UNKNOWN, encode, encode_prompts
from ckptaudit.behavior.probe_lines import read_line
from ckptaudit.behavior.probes import Probe, read_probes
from ckptaudit.behavior.tokenizers import (
    MAX_TEMPLATE,
    Tokenizer,
    agreement,
    open_tokenizer,
    refuse_other_ids,
    templates,
)
from ckptaudit.errors import ProbeError
from tests.behavior.chat import SPECIAL, TEMPLATE, bpe, saved
from tests.conftest import package

USER: Any = [{"role": "user", "content": "may I go"}]
YES: Any = [{"role": "assistant", "content": "yes"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return bpe(tmp_path_factory.mktemp("bpe"))


def probe(number: int = 1, **keys: Any) -> Probe:
    return read_line(json.dumps(keys).encode(), number, "here")


def lm_eval_pair(native: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """lm-eval's `_encode_pair`, written again: blanks move over, both are encoded together and cut."""
    blanks = len(context) - len(context.rstrip())
    if blanks:
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    both, front = native(context + continuation)["input_ids"], native(context)["input_ids"]
    return both[: len(front)], both[len(front) :]


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("may I go", " yes"), ("may I go ", "yes"), ("the answer is:\n", "no, yes"), ("", "yes")],
)
def test_prompt_and_completion_are_cut_as_lm_eval_cuts_them(
    tokenizer: Tokenizer, prompt: str, completion: str
) -> None:
    (text,) = encode([probe(prompt=prompt, completion=completion)], tokenizer).texts
    front, scored = lm_eval_pair(tokenizer.native, prompt, completion)
    assert (list(text.ids[: text.scored_from]), list(text.ids[text.scored_from :])) == (front, scored)
    assert (text.tokens, text.characters, text.text) == (len(scored), len(completion), "completion")


def test_the_bundled_probes_are_encoded_as_their_tokenizer_does_it(fixture_pairs: Path) -> None:
    tokenizer = open_tokenizer(fixture_pairs / "base")
    for name in ("task", "retain"):
        probes = read_probes(fixture_pairs / "probes" / f"{name}.jsonl")
        encoding = encode(probes, tokenizer)
        assert not encoding.excluded
        for one, text in zip(probes, encoding.texts, strict=True):
            assert isinstance(one.prompt, str)
            assert list(text.ids) == tokenizer.native(one.prompt + str(one.completions[0]))["input_ids"]
            assert text.scored_from == max(1, len(tokenizer.native(one.prompt)["input_ids"]))


def test_a_probe_whose_prompt_changes_under_the_completion_is_excluded(tokenizer: Tokenizer) -> None:
    # " an" and "swer" are one token when they meet.
    merged = probe(2, id="m", prompt="the an", chosen="swer", rejected=" is")
    encoding = encode([probe(prompt="the answer", completion=" is"), merged], tokenizer)
    assert [text.text for text in encoding.texts] == ["completion"]
    (excluded,) = encoding.excluded
    assert (excluded.probe, excluded.line, excluded.text, excluded.reason) == ("m", 2, "chosen", MERGED)


def test_the_opening_token_is_there_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    bare, written = encode([probe(text="yes"), probe(text="<s>yes")], tokenizer).texts
    assert bare.ids == written.ids
    assert bare.ids[0] == 1
    assert (bare.scored_from, bare.ids.count(1)) == (1, 1)
    silent = bpe(tmp_path, opens=False)
    (text,) = encode([probe(text="yes no")], silent).texts
    assert text.ids == bare.ids[1:] + silent.ids([" no"])[0]


def test_an_end_token_is_scored_only_where_it_is_written(tmp_path: Path) -> None:
    closing = bpe(tmp_path, closes=True)
    plain, ended = encode([probe(text="yes no"), probe(text="yes no</s>")], closing).texts
    assert 2 not in plain.ids
    assert ended.ids == (*plain.ids, 2)


@pytest.mark.parametrize("completion", [YES, "yes</s>"])
def test_conversations_go_through_the_template_as_trl_sends_them(tokenizer: Tokenizer, completion: Any) -> None:
    data_utils = package("trl.data_utils")
    (text,) = encode([probe(prompt=USER, completion=completion)], tokenizer, tokenizer.template).texts
    theirs = data_utils.maybe_apply_chat_template({"prompt": USER, "completion": YES}, tokenizer.native)
    prompt, scored = (tokenizer.ids([part])[0] for part in (theirs["prompt"], theirs["completion"].rstrip("\n")))
    assert text.ids == prompt + scored
    assert text.scored_from == len(prompt)
    # What a template writes behind the end token is nothing that a model is asked for.
    assert text.ids[-1] == 2
    assert text.ids.count(1) == 1


def test_every_completion_of_a_probe_is_a_text(tokenizer: Tokenizer) -> None:
    probes = [
        probe(id="p", prompt="may", chosen=" yes", rejected=" no"),
        probe(id="r", prompt="may", completions=[" yes", " no", " I"], ranking=[1, 2, 3]),
        probe(id="q", prompt="may"),
        probe(id="t", messages=USER + YES),
    ]
    names = [(text.probe, text.text) for text in encode(probes, tokenizer, TEMPLATE).texts]
    ranked = [("r", f"completion {n}") for n in (1, 2, 3)]
    assert names == [("p", "chosen"), ("p", "rejected"), *ranked, ("t", "text")]


def test_counts_are_of_what_the_probe_says_itself(tokenizer: Tokenizer) -> None:
    (text,) = encode(
        [probe(prompt=USER, completion=[{"role": "assistant", "content": "né"}])], tokenizer, TEMPLATE
    ).texts
    assert (text.characters, text.size) == (2, 3)


def test_prompts_are_what_the_model_is_to_answer(tokenizer: Tokenizer) -> None:
    probes = [probe(text="yes"), probe(prompt=USER, prefill="yes"), probe(prompt="may I ", completion="go")]
    asked = encode_prompts(probes, tokenizer, TEMPLATE).texts
    filled = encode_prompts(probes, tokenizer, TEMPLATE, prefill=True).texts
    written = ["<s><|user|>may I go<|assistant|>", "<s>may I "]
    assert [text.ids for text in asked] == tokenizer.ids(written)
    assert filled[0].ids == tokenizer.ids([written[0] + "yes"])[0]
    assert all(text.tokens == 0 and text.text == "prompt" for text in asked)


def test_what_does_not_fit_the_context_is_refused_by_line(tokenizer: Tokenizer) -> None:
    long = probe(7, prompt="may I go " * 5, completion="now, maybe")
    with pytest.raises(ProbeError, match=r"line 7: the prompt takes .* and fills the context of 8"):
        encode([long], tokenizer, context=8)
    with pytest.raises(ProbeError, match="line 7: prompt and completion take"):
        encode([long], tokenizer, context=len(encode([long], tokenizer).texts[0].ids) - 1)
    with pytest.raises(ProbeError, match="line 7: the prompt takes"):
        encode_prompts([long], tokenizer, context=8)
    exact = len(encode_prompts([long], tokenizer).texts[0].ids)
    with pytest.raises(ProbeError, match="fills the context"):
        encode_prompts([long], tokenizer, context=exact)
    assert encode_prompts([long], tokenizer, context=exact + 1).texts


def test_a_text_is_read_as_far_as_the_context_goes(tokenizer: Tokenizer) -> None:
    (text,) = encode([probe(text="may I go out now")], tokenizer, context=3).texts
    (complete,) = encode([probe(text="may I go out now")], tokenizer).texts
    assert text.ids == complete.ids[:3]
    assert text.cut == len(complete.ids) - 3


def test_ids_that_a_model_does_not_have_and_texts_of_one_token_are_excluded(tokenizer: Tokenizer) -> None:
    encoding = encode([probe(text="yes no"), probe(text="<s>"), probe(text="a<pad>")], tokenizer, words=64)
    assert [one.reason for one in encoding.excluded] == [UNKNOWN, NOTHING, UNKNOWN]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, ["line 1", "bring no chat template"]),
        (
            "{{ raise_exception('no system\x1b here') }}",
            ["line 1", "the chat template fails (no system\\x1b here)"],
        ),
        ("{{ messages.__class__.__mro__ }}", ["line 1", "the chat template fails"]),
        ("{{ ", ["line 1", "the chat template fails"]),
    ],
)
def test_a_template_that_is_missing_or_fails_is_one_sentence(
    tokenizer: Tokenizer, template: str | None, words: list[str]
) -> None:
    with pytest.raises(ProbeError) as caught:
        encode([probe(prompt=USER)], tokenizer, template) and encode_prompts(
            [probe(prompt=USER)], tokenizer, template
        )
    said = str(caught.value)
    assert said.isprintable()
    assert all(word in said for word in words), said


def test_a_template_that_writes_the_prompt_otherwise_under_an_answer_excludes_the_probe(
    tokenizer: Tokenizer,
) -> None:
    thinking = TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|>maybe{% endif %}")
    (excluded,) = encode([probe(prompt=USER, completion=YES)], tokenizer, thinking).excluded
    assert excluded.reason == REWRITTEN


def test_a_template_is_chosen_and_lent(tmp_path: Path) -> None:
    first, second = bpe(tmp_path / "a", template="A"), bpe(tmp_path / "b", template="B")
    bare = bpe(tmp_path / "c", template=None)
    assert templates(first, second) == ("B", "B")
    assert templates(first, second, "base") == ("A", "A")
    assert templates(first, second, "own") == ("A", "B")
    assert templates(bare, second, "own") == templates(second, bare) == ("B", "B")
    assert templates(bare, bare) == (None, None)


def word_level(folder: Path, words: list[str]) -> Tokenizer:
    native = Native(models.WordLevel({word: n for n, word in enumerate([*SPECIAL, *words])}, unk_token="<pad>"))
    native.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return saved(native, folder, None)


def test_vocabularies_are_compared_token_by_token(tmp_path: Path) -> None:
    base = word_level(tmp_path / "base", ["yes", "no"])
    longer = word_level(tmp_path / "longer", ["yes", "no", "maybe"])
    assert agreement(base, base).only_tuned == ()
    assert (agreement(base, longer).shared, agreement(base, longer).only_tuned) == (8, ("maybe",))
    assert agreement(longer, base).only_base == ("maybe",)
    with pytest.raises(ProbeError, match="2 tokens have other ids, 'yes' 6 in the base and 7 in the tuned"):
        agreement(base, word_level(tmp_path / "swapped", ["no", "yes"]))
    with pytest.raises(ProbeError, match="id 7 is 'no' in the base and 'nay' in the tuned"):
        agreement(base, word_level(tmp_path / "replaced", ["yes", "nay"]))


def test_other_rules_with_one_vocabulary_are_noticed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    other = bpe(tmp_path)
    refuse_other_ids(tokenizer, other, ["the answer"])
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    del document["model"]["merges"][4:]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    changed = open_tokenizer(tmp_path)
    assert agreement(tokenizer, changed).only_tuned == ()
    with pytest.raises(ProbeError, match="1 of 2 texts become other ids, 'the answer'"):
        refuse_other_ids(tokenizer, changed, ["m", "the answer"])
    assert changed.digest != other.digest == tokenizer.digest


def test_a_folder_without_a_usable_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="has no tokenizer"):
        open_tokenizer(tmp_path)
    bpe(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(document | {"pre_tokenizer": {"type": "nonsense"}}))
    with pytest.raises(ProbeError, match="no tokenizer here"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(ProbeError, match="a pipe, not a regular file"):
        open_tokenizer(tmp_path)


def test_a_template_of_any_length_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="a chat template of"):
        bpe(tmp_path, template="a" * (MAX_TEMPLATE + 1))
