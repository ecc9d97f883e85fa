"""How many tokens the passes over some probes will run, as far as it can be known before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from ckptaudit.behavior.asking import asked
from ckptaudit.behavior.evidence import Pass
from ckptaudit.behavior.facts import ProbeFacts
from ckptaudit.behavior.items import COMPARED, Item
from ckptaudit.behavior.packs import Scored
from ckptaudit.behavior.tally import Workload


def expected(
    items: Sequence[Item], answered: Sequence[Item], facts: ProbeFacts, passes: Collection[Pass], *, weak: bool
) -> Workload:
    """Tokens of both models, and of a weak one."""
    compared = [item for item in items if item.probe.kind in COMPARED]
    prompts = sum(len(item.prompt) for item in answered)
    of_pass: dict[Pass, Callable[[], int]] = {
        "texts": lambda: 2 * _tokens(i.texts[0] for i in items if i.texts and i.probe.kind not in COMPARED),
        "pairs": lambda: 2 * _tokens(text for item in compared for text in item.texts),
        "weak": lambda: weak * _tokens(text for item in compared for text in item.texts),
        "unprompted": lambda: 2 * _tokens(_unprompted(items)),
        "openings": lambda: 2 * _tokens(text for i in items if i.probe.safety is not None for text in i.openings),
        "answers": lambda: 2 * prompts,
        "samples": lambda: 2 * facts.samples * prompts,
        "states": lambda: 2 * sum(len(item.prompt) for item in items if item.probe.safety is not None),
    }
    requests = [request for _, request in asked(answered, facts, passes)]
    samples = facts.samples * len(answered)
    return Workload(
        tokens=sum(count() for name, count in of_pass.items() if name in passes)
        + 2 * sum(len(request.ids) for request in requests),
        answers=2 * len(requests),
        # Sampled answers are read for their entropy, and once more for what they are about.
        read=2 * len(answered) * ("answers" in passes) + 4 * samples * ("samples" in passes),
        most=facts.max_new_tokens,
    )


def _tokens(texts: Iterable[Scored]) -> int:
    return sum(len(text.ids) for text in texts)


def _unprompted(items: Sequence[Item]) -> list[Scored]:
    found = [item.unprompted for item in items if item.probe.kind in ("completion", "labelled")]
    return [text for text in found if text is not None]
