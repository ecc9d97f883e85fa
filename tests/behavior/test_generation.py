from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ckptaudit.behavior.causal_models import CausalModel
from ckptaudit.behavior.generation import GREEDY, SAMPLED, Answer, Request, Setting, draw, generate
from ckptaudit.behavior.scoring import Scored
from ckptaudit.behavior.states import pooled_states

Opened = Callable[[str], CausalModel]
Encoded = Callable[[str], list[Scored]]


@pytest.fixture
def requests(encoded: Encoded) -> list[Request]:
    return [Request(text.ids[: text.start], str(i)) for i, text in enumerate(encoded("task"))]


def greedy_by_hand(model: CausalModel, ids: tuple[int, ...], most: int) -> Answer:
    found: list[int] = []
    while len(found) < most:
        with torch.no_grad():
            token = int(model.network(torch.tensor([[*ids, *found]])).logits[0, -1].argmax())
        if token in model.end_tokens:
            return Answer(tuple(found), "end")
        found.append(token)
    return Answer(tuple(found), "length")


def test_greedy_answers_are_those_of_one_pass_a_token(bundled: Opened, requests: list[Request]) -> None:
    found = generate(bundled("rlvr"), requests, most=12)
    assert found == [greedy_by_hand(bundled("rlvr"), request.ids, 12) for request in requests]
    assert np.mean([answer.length for answer in found]) == pytest.approx(5.25)


@pytest.mark.parametrize("setting", [GREEDY, SAMPLED, Setting("narrow", 0.8, 0.9, 20)])
def test_the_batch_does_not_change_the_text(bundled: Opened, requests: list[Request], setting: Setting) -> None:
    asked = [replace(request, setting=setting) for request in requests]
    together = generate(bundled("rlvr"), asked, most=12)
    alone = [generate(bundled("rlvr"), [request], most=12)[0] for request in asked[::4]]
    backwards = generate(bundled("rlvr"), asked[::-1], most=12, alike=True)
    assert alone == together[::4]
    assert backwards == together[::-1]


def test_settings_side_by_side_are_those_apart(bundled: Opened, requests: list[Request]) -> None:
    settings = (GREEDY, SAMPLED, Setting("narrow", 0.8, 0.9, 20))
    asked = [replace(request, setting=setting) for request in requests for setting in settings]
    apart = {s: generate(bundled("rlvr"), [r for r in asked if r.setting == s], most=12) for s in settings}
    assert generate(bundled("rlvr"), asked, most=12) == [
        one for row in zip(*apart.values(), strict=True) for one in row
    ]
    assert apart[GREEDY] != apart[SAMPLED]


def test_samples_of_a_prompt_differ_and_repeat_with_the_seed(bundled: Opened, requests: list[Request]) -> None:
    several = [replace(requests[0], sample=i, setting=SAMPLED) for i in range(8)]
    found = generate(bundled("base"), several, most=12)
    assert len({answer.ids for answer in found}) > 1
    assert generate(bundled("base"), several, most=12) == found
    assert generate(bundled("base"), several, most=12, seed=1) != found


def test_answers_are_cut_at_the_limit_and_at_the_context(bundled: Opened, requests: list[Request]) -> None:
    endless = replace(bundled("base"), end_tokens=())
    assert {(a.stop, len(a.ids)) for a in generate(endless, requests[:3], most=5)} == {("length", 5)}
    short = replace(endless, context=len(requests[0].ids) + 2)
    long, tight = replace(requests[0], ids=requests[0].ids * 2), requests[0]
    assert [len(a.ids) for a in generate(short, [tight, long], most=5)] == [2, 0]


def test_a_tight_prompt_does_not_cut_its_neighbours(bundled: Opened, requests: list[Request]) -> None:
    endless = replace(bundled("base"), end_tokens=())
    filler = replace(requests[0], ids=requests[0].ids + (20,) * 200)
    found = generate(endless, [requests[0], filler], most=60)
    assert len(found[0].ids) == 60
    assert len(found[1].ids) == endless.context - len(filler.ids)


def test_tight_prompts_of_one_length_are_answered_together(
    bundled: Opened, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    length = max(len(request.ids) for request in requests)
    tight = [Request((request.ids * length)[:length], f"{i}") for i, request in enumerate(requests)]
    model = replace(bundled("base"), context=length + 5)
    alone = [generate(model, [request], most=40)[0] for request in tight]
    ran: list[int] = []
    generating = model.network.generate

    def counted(ids: torch.Tensor, **how: Any) -> Any:
        ran.append(len(ids))
        return generating(ids, **how)

    monkeypatch.setattr(model.network, "generate", counted)
    assert generate(model, tight, most=40) == alone
    assert ran == [len(tight)]


def test_draws_follow_the_distribution() -> None:
    probability = torch.tensor([0.1, 0.6, 0.3])
    uniform = torch.tensor((np.arange(1000) + 0.5) / 1000)
    tokens = Counter(draw(probability.log().expand(1000, 3), Setting("", 1.0), uniform).tolist())
    assert tokens == {1: 600, 2: 300, 0: 100}


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        (Setting("", 1.0, top_k=1), {1}),
        (Setting("", 1.0, top_k=2), {1, 2}),
        (Setting("", 1.0, top_p=0.6), {1}),
        (Setting("", 1.0, top_p=0.61), {1, 2}),
        (Setting("", 0.01), {1}),
        (Setting("", 1.0, top_p=0.95, top_k=500), {0, 1, 2}),
    ],
)
def test_truncation_leaves_the_likeliest_tokens(setting: Setting, kept: set[int]) -> None:
    probability = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    uniform = torch.linspace(0, 0.999, 500, dtype=torch.float64)
    assert set(draw(probability.log().expand(500, 3), setting, uniform).tolist()) == kept


def test_states_are_pooled_over_the_prompt_alone(bundled: Opened, encoded: Encoded) -> None:
    model, prompts = bundled("base"), [text.ids for text in encoded("task")[:6]]
    found = pooled_states(model, prompts)
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            layers = model.network(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        assert np.allclose(found.mean[row], torch.stack([h[0].mean(dim=0) for h in layers]).numpy(), atol=1e-4)
        assert np.allclose(found.last[row], torch.stack([h[0, -1] for h in layers]).numpy(), atol=1e-4)
