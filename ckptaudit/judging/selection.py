"""Which tensors of a pair a check is about, and on which subjects it gives a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from ckptaudit.judging.check_files import Check
from ckptaudit.measurement.jobs import applies
from ckptaudit.metrics.groups import counts
from ckptaudit.pairing import AlignedTensor, ModelPair

MODEL = "model"


@dataclass(frozen=True, slots=True)
class Part:
    """A matrix that a verdict rests on, and the weight it is of."""

    name: str
    tensor: AlignedTensor


def is_about(check: Check, tensor: AlignedTensor) -> bool:
    """Whether the check's metric means anything for this tensor."""
    return counts(tensor) if check.about_group else applies(check.metric, tensor)


def selected(check: Check, pair: ModelPair, subject: str) -> tuple[AlignedTensor, ...]:
    """The tensors of a subject (of all, for the model) that the check is about and its metric applies to."""
    chosen = pair.select(check.roles)
    subjects = chosen if subject not in pair.subjects else {subject: chosen.get(subject, ())}
    return tuple(t for tensors in subjects.values() for t in tensors if is_about(check, t))


def subjects(check: Check, pair: ModelPair) -> list[str]:
    """Whatever the check gives a verdict on; the model, where its roles select nothing."""
    return list(parts(check, pair)) or [MODEL]


def parts(check: Check, pair: ModelPair) -> dict[str, list[Part]]:
    """By subject, the matrices that its verdict rests on; none for a check of the pair's headers."""
    if check.about_pair:
        return {MODEL: []}
    found: dict[str, list[Part]] = {MODEL: []} if check.per == "model" else {}
    for subject, tensors in pair.select(check.roles).items():
        for tensor in (t for t in tensors if is_about(check, t)):
            for name in tensor.matrix_names():
                owner = {"model": MODEL, "layer": subject, "matrix": name}[check.per]
                found.setdefault(owner, []).append(Part(name, tensor))
    return found
