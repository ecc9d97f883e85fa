"""The samples that a broken check of rollouts shows, in words."""

from __future__ import annotations

from collections.abc import Iterator

from ckptaudit.errors import printable
from ckptaudit.judging.verdict import Verdict
from ckptaudit.report.appearance import number
from ckptaudit.rollouts.excerpts import SampleExcerpt


def sample_lines(verdict: Verdict) -> Iterator[str]:
    """`step 3, 0/1/17 of group 3/2, reward 0.2: prompt "..." response "..."`, one for each sample."""
    for sample in verdict.samples:
        texts = (("prompt", sample.prompt), ("response", sample.response))
        said = " ".join(f'{what} "{printable(text)}"' for what, text in texts if text)
        yield f"{named(sample)}: {said or 'no text was logged'}"


def named(sample: SampleExcerpt) -> str:
    """Where the sample is, and what it was worth."""
    group = f" of group {printable(sample.group)}" if sample.group else ""
    numbers = (("reward", sample.reward), ("advantage", sample.advantage))
    worth = [f"{what} {number(value)}" for what, value in numbers if value is not None]
    return ", ".join((f"step {sample.step}", f"{printable(sample.sample)}{group}", *worth))
