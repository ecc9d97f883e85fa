"""Stored types: against what config.json declares, against each other, and against the base's."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from ckptaudit.artifact.facts import ArtifactEvidence, Side, StoredFact, text_view
from ckptaudit.artifact.json_documents import mapping_of, text_of
from ckptaudit.artifact.wording import capped, listed, place, shown
from ckptaudit.findings import Finding

KEYS = ("dtype", "torch_dtype")
QUANTISED = "quantization_config"
PLAIN = ("float64", "float32", "bfloat16", "float16")
MIXED = 0.5
"""Where no type has this share of the parameters, no tensor can be called a stray one."""


def dtype_faults(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """The type that config.json declares, where most parameters are stored in another and the base's are not.

    Quantised weights are declared in the type that they are widened to; of them only that there are some is judged.
    """
    return capped([*_not_quantised(evidence), *_declared_otherwise(evidence)])


def _not_quantised(evidence: ArtifactEvidence) -> Iterator[Finding]:
    """A quantization_config beside plain weights, as a merge of an adapter trained on quantised ones leaves it."""
    base, tuned = evidence.base, evidence.tuned
    settings = mapping_of(tuned.config.get(QUANTISED))
    if not settings or not tuned.tensors or mapping_of(base.config.get(QUANTISED)):
        return
    if all(tensor.dtype in PLAIN for tensor in tuned.tensors):
        detail = (
            f"config.json declares {shown(settings.get('quant_method'))}, every tensor is a plain number; remove "
            "the key, or engines quantise the weights again or look for scales that are not there"
        )
        yield Finding(place(tuned.config_file, QUANTISED), "declared quantised, stored plain", detail)


def _declared_otherwise(evidence: ArtifactEvidence) -> Iterator[Finding]:
    base, tuned = evidence.base, evidence.tuned
    said, kept = _declared(tuned), main_dtype(tuned.tensors)
    if said is None or kept is None or said[1] == kept or "float8" in kept:
        return
    theirs = _declared(base)
    if theirs is not None and (theirs[1], main_dtype(base.tensors)) == (said[1], kept):
        return
    detail = (
        f"config.json declares {said[1]}, the weights are stored as {kept}; write {shown(kept)} there, or save the "
        f"weights as {said[1]}"
    )
    yield Finding(place(tuned.config_file, said[0]), "declared type is not the stored one", detail)


def stray_dtypes(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """Tensors stored in another floating-point type than the others of their kind, and than the base says.

    A kind that is stored apart in every layer (routers, state-space decays, norms in float32) is a rule of the
    export and no stray.
    """
    base, tuned = evidence.base, evidence.tuned
    main = main_dtype(tuned.tensors)
    theirs = {t.name: t.dtype for t in base.tensors}
    their_main = main_dtype(base.tensors)
    if main is None:
        return ()
    return capped(
        Finding(
            tensor.name,
            "stray type",
            f"stored as {tensor.dtype}, the others as {usual}; save it as {usual}",
        )
        for tensor, usual in _strays(tuned.tensors, main, theirs, their_main)
    )


def export_dtypes(evidence: ArtifactEvidence) -> tuple[Finding, ...]:
    """The type that most parameters of the tuned model have, where the base's have another."""
    before, after = main_dtype(evidence.base.tensors), main_dtype(evidence.tuned.tensors)
    if before is None or after is None or before == after or evidence.tuned.is_adapter:
        return ()
    return (Finding("weights", f"{after} export of a {before} base", _export(evidence.tuned, before, after)),)


def main_dtype(tensors: tuple[StoredFact, ...]) -> str | None:
    """The floating-point type that most parameters are stored in; float8 counts wherever it is used."""
    sizes = _sizes(tensors)
    narrow = sorted(dtype for dtype in sizes if dtype.startswith("float8"))
    return narrow[0] if narrow else max(sizes, key=lambda d: (sizes[d], d), default=None)


def _sizes(tensors: tuple[StoredFact, ...]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.is_float:
            sizes[tensor.dtype] += _entries(tensor)
    return sizes


def _entries(tensor: StoredFact) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def _declared(side: Side) -> tuple[str, str] | None:
    """(key, type) that config.json declares for the model."""
    views: tuple[Mapping[str, object], ...] = (side.config, text_view(side.config))
    for view in views if side.has_config else ():
        for key in KEYS:
            said = text_of(view.get(key)).removeprefix("torch.")
            if said and said != "auto":
                return key, said
    return None


def _strays(
    tensors: tuple[StoredFact, ...], main: str, theirs: Mapping[str, str], their_main: str | None
) -> Iterator[tuple[StoredFact, str]]:
    kinds: dict[tuple[object, ...], list[StoredFact]] = defaultdict(list)
    for tensor in tensors:
        if tensor.is_float and not tensor.dtype.startswith("float8"):
            kinds[tensor.role, tensor.stack, tensor.layer is None].append(tensor)
    narrow = main.startswith("float8")
    for (_, _, is_single), own in kinds.items():
        usual = Counter(t.dtype for t in own).most_common(1)[0][0]
        expected = main if is_single and not narrow else usual
        for tensor in own:
            if tensor.dtype != expected and not _is_theirs(tensor, theirs, their_main, single=is_single is True):
                yield tensor, expected


def _is_theirs(tensor: StoredFact, theirs: Mapping[str, str], their_main: str | None, *, single: bool) -> bool:
    """Whether the base stores the tensor apart as well; where it does not hold it, a lone one is left alone."""
    before = theirs.get(tensor.name)
    if before is None:
        return single
    return before == tensor.dtype and before != their_main


def _export(tuned: Side, before: str, after: str) -> str:
    narrow = [t.name for t in tuned.tensors if t.dtype.startswith("float8")]
    if narrow:
        settings = mapping_of(tuned.config.get(QUANTISED))
        how = f" by {shown(settings.get('quant_method'))}" if settings else " without a quantization_config"
        return (
            f"{len(narrow):,} weights are quantised to float8{how} ({listed(narrow)}): differences to the base "
            "are of rounding as much as of training; audit the weights before quantisation"
        )
    if after == "float32":
        return f"stored as float32, the base as {before}: twice the size; cast to {before} unless it is meant"
    if after == "float16":
        return f"stored as float16, the base as {before}: values beyond 65,504 overflow; save as {before}"
    return f"stored as {after}, the base as {before}; save in the base's type unless it is meant"
