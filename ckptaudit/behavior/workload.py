"""How many tokens the passes over some probes will run, as far as it can be known before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from ckptaudit.behavior.asking import asked
from ckptaudit.behavior.evidence import Pass
from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.items import COMPARED, Item
from ckptaudit.behavior.packs import Scored
from ckptaudit.behavior.token_count import Workload

SIDES = ("base", "tuned")


def expected(
    items: Sequence[Item], answered: Sequence[Item], facts: ProbeFacts, passes: Collection[Pass], *, weak: bool
) -> Workload:
    """Tokens of both models, and of a weak one."""
    sides = [([i.of(side) for i in items], [i.of(side) for i in answered]) for side in SIDES]
    compared = [item.of("weak") for item in items if item.probe.kind in COMPARED]
    weakly = _tokens(text for item in compared for text in item.texts) if weak and "weak" in passes else 0
    requests = [request for _, own in sides for _, request in asked(own, facts, passes)]
    alike = [item for item in answered if item.alike("prompt")]
    prompts = sum(len(item.prompt) for item in alike) if "answers" in passes else 0
    samples = facts.samples * len(answered)
    return Workload(
        tokens=weakly
        + 2 * prompts
        + sum(_of_side(*side, facts, passes) for side in sides)
        + sum(len(request.ids) for request in requests),
        answers=len(requests),
        # Sampled answers are read for their entropy, and once more for what they are about.
        read=2 * len(alike) * ("answers" in passes) + 4 * samples * ("samples" in passes),
        most=facts.max_new_tokens,
    )


def _of_side(items: Sequence[Item], answered: Sequence[Item], facts: ProbeFacts, passes: Collection[Pass]) -> int:
    """Tokens of given texts, prompts of sampled answers included, as one model sees them."""
    of_pass: dict[Pass, Callable[[], int]] = {
        "texts": lambda: _tokens(i.texts[0] for i in items if i.texts and i.probe.kind not in COMPARED),
        "pairs": lambda: _tokens(text for i in items if i.probe.kind in COMPARED for text in i.texts),
        "unprompted": lambda: _tokens(_unprompted(items)),
        "openings": lambda: _tokens(text for i in items if i.probe.safety is not None for text in i.openings),
        "samples": lambda: facts.samples * sum(len(item.prompt) for item in answered),
        "states": lambda: sum(len(item.prompt) for item in items if item.probe.safety is not None),
    }
    return sum(count() for name, count in of_pass.items() if name in passes)


def _tokens(texts: Iterable[Scored]) -> int:
    return sum(len(text.ids) for text in texts)


def _unprompted(items: Sequence[Item]) -> list[Scored]:
    found = [item.unprompted for item in items if item.probe.kind in ("completion", "labelled")]
    return [text for text in found if text is not None]
