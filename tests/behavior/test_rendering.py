"""Chat templates are data of strangers: limited in time, memory and length, they see nothing but messages."""

from __future__ import annotations

import pytest

from ckptaudit.behavior import rendering
from ckptaudit.behavior.probe import Message
from ckptaudit.behavior.rendering import rendered
from ckptaudit.errors import ProbeError

ONE = ((Message("user", "may I"),), True)
TWO = ((Message("user", "may I"), Message("assistant", "yes")), False)


def test_a_template_sees_messages_special_tokens_and_whether_a_turn_is_begun() -> None:
    turns = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
    template = f"{{{{ bos_token }}}}{turns}{{{{ add_generation_prompt }}}}"
    assert rendered(template, {"bos_token": "<s>"}, [ONE, TWO]) == [
        (True, "<s>[user:may I]True"),
        (True, "<s>[user:may I][assistant:yes]False"),
    ]


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ ('a' * 10 ** 10)[:1] }}",
        "{% set x = namespace(v='aaaaaaaaaa') %}{% for n in range(40) %}{% set x.v = x.v + x.v %}{% endfor %}",
    ],
    ids=["time", "a constant", "memory"],
)
def test_a_template_without_end_or_measure_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 2.0)
    monkeypatch.setattr(rendering, "MEMORY", 2**30)
    ended = ""
    try:
        ((fine, said),) = rendered(template, {}, [ONE])
        ended = "" if fine else said
    except ProbeError as error:
        ended = str(error)
    # A string that does not fit the memory is the template's own error; time is the process's end.
    assert "chat template takes more time or memory" in ended or ended == "MemoryError"


def test_what_a_template_writes_is_bounded_by_what_it_was_given() -> None:
    ((fine, said),) = rendered("{{ 'a' * 2000000 }}", {}, [ONE])
    assert not fine
    assert "2,000,000 characters, more than" in said


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__ }}",
    ],
)
def test_a_template_reaches_nothing_else(template: str) -> None:
    ((fine, said),) = rendered(template, {}, [ONE])
    assert not fine or said == "", said


def test_one_refused_conversation_leaves_the_others() -> None:
    template = "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}ok"
    assert rendered(template, {}, [TWO, ONE]) == [(False, "one turn only"), (True, "ok")]


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(ProbeError, match="no text"):
        rendered("{{ '\\ud800' }}", {}, [ONE])
