"""The format of probes: each kind as it is written, and each mistake as a sentence with file, line and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.behavior.probe_lines import KEYS, MAX_LINE, SHAPES, read_line
from ckptaudit.behavior.probes import KINDS, Message, Probe, read_probes
from ckptaudit.cli import main
from ckptaudit.errors import ProbeError

USER: Any = [{"role": "user", "content": "May I?"}]
YES: Any = [{"role": "assistant", "content": "Yes."}]
NO: Any = [{"role": "assistant", "content": "No."}]


def written(tmp_path: Path, *lines: dict[str, Any] | str) -> Path:
    path = tmp_path / "probes.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def one(tmp_path: Path, **keys: Any) -> Probe:
    (probe,) = read_probes(written(tmp_path, keys))
    return probe


def messages(*turns: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "kind", "prompt", "completions"),
    [
        ({"text": "a b"}, "text", "", ("a b",)),
        ({"messages": USER + YES}, "text", "", (messages(("user", "May I?"), ("assistant", "Yes.")),)),
        ({"prompt": "Q"}, "prompt", "Q", ()),
        ({"prompt": USER}, "prompt", messages(("user", "May I?")), ()),
        ({"prompt": "Q", "completion": " a"}, "completion", "Q", (" a",)),
        ({"prompt": "", "completion": " a"}, "completion", "", (" a",)),
        ({"prompt": USER, "completion": "Yes"}, "completion", messages(("user", "May I?")), ("Yes",)),
        ({"prompt": "Q", "chosen": " a", "rejected": " b"}, "preference", "Q", (" a", " b")),
        ({"chosen": "Q: a", "rejected": "Q: b"}, "preference", "Q:", (" a", " b")),
        (
            {"chosen": USER + YES, "rejected": USER + NO},
            "preference",
            messages(("user", "May I?")),
            (messages(("assistant", "Yes.")), messages(("assistant", "No."))),
        ),
        ({"prompt": "Q", "completion": " a", "label": False}, "labelled", "Q", (" a",)),
        ({"prompt": "Q", "completions": ["a", "b", "c"], "ranking": [2, 1, 2]}, "ranking", "Q", ("a", "b", "c")),
        ({"prompt": "Q", "choices": ["a", "b"], "answer": 0}, "choice", "Q", ("a", "b")),
    ],
)
def test_every_kind_is_told_by_its_keys(
    tmp_path: Path, line: dict[str, Any], kind: str, prompt: Any, completions: Any
) -> None:
    probe = one(tmp_path, **line)
    assert (probe.kind, probe.prompt, probe.completions) == (kind, prompt, completions)


def test_every_shape_is_one_of_the_kinds() -> None:
    assert set(SHAPES.values()) == set(KINDS)


def test_what_is_said_beside_the_texts_is_kept(tmp_path: Path) -> None:
    principles = {"privacy": 1, "candour": -1, "brevity": None}
    probe = one(
        tmp_path,
        id=7,
        set="harm",
        prompt=USER,
        chosen=NO,
        rejected=YES,
        safety="unsafe",
        raters=0.75,
        principles=principles,
        prefill="Sure,",
        reference="No.",
        weight=2,
    )
    assert (probe.id, probe.set, probe.safety, probe.raters) == ("7", "harm", "unsafe", 0.75)
    assert (probe.principles, probe.prefill, probe.reference, probe.weight) == (principles, "Sure,", "No.", 2.0)
    assert probe.conversational
    assert hash(probe) == hash(probe)


def test_an_identifier_is_the_digest_of_what_the_line_says(tmp_path: Path) -> None:
    spaced, other, named = read_probes(
        written(tmp_path, '{"text":  "a"}', '{"text": "b"}', '{"id": "x", "text": "a"}')
    )
    assert spaced.id == spaced.digest == named.digest
    assert named.id == "x"
    assert other.digest != spaced.digest


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    # JSON may hold a line separator as it is; Python's splitlines would cut there.
    path = tmp_path / "p.jsonl"
    path.write_bytes('\ufeff{"text": "a\u2028b\x7f\x85c"}\r\n\r\n{"text": 3}'.encode())
    with pytest.raises(ProbeError, match="line 3"):
        read_probes(path)
    path.write_bytes('\ufeff{"text": "a\u2028b"}\r\n'.encode())
    assert read_probes(path)[0].completions == ("a\u2028b",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"text": "a", "promt": "b"}, ['unknown key "promt"', "did you mean prompt"]),
        ({"prompt": "a", "completions": ["a", "b"], "labels": [1, 0]}, ['unknown key "labels"', "label"]),
        ({"text": "a", "\x1b[2J": "b"}, ["unknown key", "\\x1b[2J"]),
        ({"prompt": [{"role": "user", "content": "a", "contents": "b"}]}, ['"contents" in "prompt[0]"', "content"]),
        ({"text": "a", "prompt": "b"}, ['holds both "text" and "prompt"']),
        ({"set": "a"}, ["holds no text"]),
        ({"prompt": "a", "chosen": "b"}, ['lacks "rejected"']),
        ({"prompt": "a", "choices": ["b", "c"]}, ['"prompt" and "choices" lacks "answer"']),
        ({"text": "a", "completion": "b"}, ['does not go with "completion"']),
        ({"text": None}, ["holds no text"]),
        ({"text": ""}, ['"text" is empty']),
        ({"messages": []}, ['"messages": expected `array` of length >= 1']),
        ({"prompt": ""}, ['"prompt" is empty']),
        ({"prompt": "a", "completion": ""}, ['"completion" is empty']),
        ({"prompt": USER, "completion": [{"role": "assistant", "content": ""}]}, ['"completion" is empty']),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, ['"chosen" and "rejected" are the same']),
        ({"chosen": "Q: a", "rejected": "Q: a"}, ['"chosen" is empty']),
        ({"chosen": "a", "rejected": "b"}, ["do not begin alike", '"prompt"']),
        ({"chosen": USER + YES, "rejected": "b"}, ["one of", "conversation"]),
        ({"prompt": "a", "choices": ["b", "b"], "answer": 0}, ['1 of "choices" and 2 of "choices" are the same']),
        ({"prompt": "a", "choices": ["b"], "answer": 0}, ['"choices"', "length >= 2"]),
        ({"prompt": "a", "choices": ["b", "c"], "answer": 2}, ['"answer" is 2', "from 0 to 1"]),
        ({"prompt": "a", "choices": ["b", "c"], "answer": -1}, ['"answer" is -1']),
        ({"prompt": "a", "choices": ["b", "c"], "answer": True}, ['"answer"', "bool"]),
        ({"prompt": "a", "completions": ["b", "c"], "ranking": [1]}, ["1 numbers for 2"]),
        ({"prompt": "a", "completions": ["b", "c"], "ranking": [0, 1]}, ["from 1 (the best)"]),
        ({"prompt": "a", "completions": ["b", "c"], "ranking": [1, 3]}, ["to at most 2"]),
        ({"prompt": "a", "completions": ["b", "c"], "ranking": [1, 1]}, ["nothing to compare"]),
        ({"prompt": "a", "completion": 3}, ['"completion": expected', "got `int`"]),
        ({"prompt": "a", "completion": "b", "label": 1}, ['"label"', "bool"]),
        ({"prompt": [{"role": "wizard", "content": "a"}]}, ['"prompt[0].role"', "'wizard'"]),
        ({"prompt": [{"role": "user"}]}, ['"prompt[0]"', "`content`"]),
        ({"prompt": USER + YES}, ["ends with the assistant", "prefill"]),
        ({"prompt": "a", "completion": YES}, ["is a conversation", "both as messages"]),
        ({"prompt": USER, "completion": USER}, ["messages of user", "one message of the assistant"]),
        ({"prompt": USER, "completion": YES + USER}, ["messages of assistant, user"]),
        ({"text": "a", "raters": 0.5}, ['"raters" is for probes with chosen and rejected']),
        ({"text": "a", "prefill": "b"}, ['"prefill" is for probes with a prompt']),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "raters": 1.5}, ['"raters"', "<= 1"]),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "principles": {"x": 2}}, ['"principles', "2"]),
        ({"text": "a", "safety": "harmful"}, ['"safety"', "'harmful'"]),
        ({"text": "a", "weight": 0}, ['"weight"', ">= 1e-09"]),
        ({"text": "a", "weight": 1e-200}, ['"weight"', ">= 1e-09"]),
        ('{"text": "a", "weight": 1e999}', ['"weight"', "out of range"]),
        ('{"text": "a", "weight": NaN}', ["not JSON"]),
        ({"text": "a", "id": ""}, ['"id"', ">= 1"]),
        ({"text": "a", "id": "x" * 201}, ['"id"', "<= 200"]),
        ("[1]", ["expected `object`"]),
        ('{"text": "\\ud800"}', ["not JSON"]),
        ('{"text": ' + "[" * 100_000, ['"text"']),
        ("{", ["not JSON"]),
    ],
    ids=str,
)
def test_every_mistake_is_named_with_line_and_key(
    tmp_path: Path, line: dict[str, Any] | str, words: list[str]
) -> None:
    path = written(tmp_path, {"text": "fine"}, "", line)
    with pytest.raises(ProbeError) as caught:
        read_probes(path)
    (said,) = str(caught.value).splitlines()
    assert f"{path}, line 3: " in said
    assert "docs/probes.md" in said
    assert all(word in said for word in words), said
    assert said.isprintable()


def test_a_name_may_stand_once(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match='line 2: the "id" "x" is already that of line 1'):
        read_probes(written(tmp_path, {"id": "x", "text": "a"}, {"id": "x", "text": "b"}))
    with pytest.raises(ProbeError, match='line 2: says the same as line 1; give both an "id"'):
        read_probes(written(tmp_path, {"text": "a"}, {"text": "a"}))
    assert len(read_probes(written(tmp_path, {"text": "a"}, {"text": "a", "set": "retain"}))) == 2


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProbeError, match="more than the 16,777,216 that a line may have"):
        read_probes(written(tmp_path, '{"text": "' + "a" * MAX_LINE + '"}'))
    with pytest.raises(ProbeError, match="length <= 1024"):
        one(tmp_path, prompt="a", choices=[str(n) for n in range(1025)], answer=0)
    monkeypatch.setattr("ckptaudit.behavior.probes.MAX_PROBES", 2)
    with pytest.raises(ProbeError, match="3 probes, more than the 2"):
        read_probes(written(tmp_path, *({"text": str(n)} for n in range(3))))


def test_the_bundled_probes_are_read(fixture_pairs: Path) -> None:
    for path in sorted((fixture_pairs / "probes").glob("*.jsonl")):
        assert read_probes(path), path


def test_collecting_takes_plain_texts_alone(
    tmp_path: Path, fixture_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, {"text": "<bos>ab"}, {"prompt": "Q", "chosen": " a", "rejected": " b"})
    model, output = f"--model={fixture_pairs / 'base'}", f"--output={tmp_path / 'g.safetensors'}"
    assert main(["collect", "gradients", model, f"--data={path}", output]) == 4
    assert "line 2: of kind preference" in capsys.readouterr().err


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("role", "content", "a")), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), VALUES, max_size=6))
def test_any_object_is_a_probe_or_one_printable_sentence(line: dict[str, Any]) -> None:
    said = ""
    probe = None
    try:
        probe = read_line(json.dumps(line).encode(), 1, "here")
    except ProbeError as error:
        said = str(error)
    assert said.isprintable()
    assert said or (probe and all(probe.completions) and len(set(probe.completions)) == len(probe.completions))
