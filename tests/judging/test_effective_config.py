"""A configuration on a pair: the limit of every tensor, what it refuses, what it leaves unsaid."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptaudit.checkpoints import Checkpoint
from ckptaudit.errors import ConfigError
from ckptaudit.judging.check_files import CheckFile, load_checks
from ckptaudit.judging.config import Config, load_config
from ckptaudit.judging.effective_config import EffectiveConfig
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.pairing import ModelPair, pair_checkpoints

RUN = "run"
TODAY = datetime.date(2026, 11, 24)

Make = Callable[..., EffectiveConfig]


@pytest.fixture(scope="module")
def pair(base: Checkpoint, gentle: Checkpoint) -> ModelPair:
    return pair_checkpoints(base, gentle)


@pytest.fixture(scope="module")
def rlvr() -> CheckFile:
    return load_checks(bundled_checks() / "rlvr.toml")


@pytest.fixture
def effective(pair: ModelPair, rlvr: CheckFile, tmp_path: Path) -> Make:
    """The effective configuration of a configuration's text on the bundled pair."""

    def make(text: str, *, strict: bool = False) -> EffectiveConfig:
        path = tmp_path / "ckptaudit.toml"
        path.write_text(text)
        return EffectiveConfig(load_config(path), [rlvr], {RUN: pair}, strict=strict, today=TODAY)

    return make


def override(check: str = "spectral-drift", limit: str = "at_most = 5e-3", scope: str = "") -> str:
    return f'[[override]]\ncheck = "{check}"\n{limit}\n{scope}\nreason = "ours"\n'


def waiver(check: str = "spectral-drift", subject: str = "layers.3", until: str = "2027-01-31") -> str:
    return f'[[waiver]]\ncheck = "{check}"\nsubject = "{subject}"\nuntil = {until}\nreason = "ours"\n'


def limit_of(config: EffectiveConfig, rlvr: CheckFile, tensor: str, check: str = "spectral-drift") -> float:
    return config.limits(rlvr.by_id[check], RUN).of(f"model.layers.{tensor}.weight").value


def test_without_a_configuration_the_limit_is_the_checks_own(pair: ModelPair, rlvr: CheckFile) -> None:
    limits = EffectiveConfig(Config(), [rlvr], {RUN: pair}).limits(rlvr.by_id["finite"], RUN)
    assert limits.usual.value == 0
    assert limits.usual.origin == "check in integrity.toml", "the file it is written in, not the one including it"


@pytest.mark.parametrize(
    ("scope", "moved", "kept"),
    [
        ('roles = ["v_proj"]', "2.self_attn.v_proj", "2.self_attn.q_proj"),
        ('roles = ["attention"]', "2.self_attn.q_proj", "2.mlp.up_proj"),
        ("layers = [1, 2]", "2.mlp.up_proj", "3.mlp.up_proj"),
        ('tensors = ["*.2.mlp.*"]', "2.mlp.up_proj", "2.self_attn.q_proj"),
        ('roles = ["v_proj"]\nlayers = [2]', "2.self_attn.v_proj", "1.self_attn.v_proj"),
    ],
)
def test_an_override_moves_the_limit_of_what_it_names(
    effective: Make, rlvr: CheckFile, scope: str, moved: str, kept: str
) -> None:
    made = effective(override(scope=scope))
    assert limit_of(made, rlvr, moved) == 5e-3
    assert limit_of(made, rlvr, kept) == 1e-3
    assert (
        made.limits(rlvr.by_id["spectral-drift"], RUN).of(f"model.layers.{moved}.weight").origin.endswith(": ours")
    )


def test_a_later_override_wins(effective: Make, rlvr: CheckFile) -> None:
    made = effective(
        override(scope='roles = ["attention"]') + override(limit="at_most = 9e-3", scope="layers = [0]")
    )
    assert limit_of(made, rlvr, "0.self_attn.q_proj") == 9e-3
    assert limit_of(made, rlvr, "1.self_attn.q_proj") == 5e-3
    assert made.notes == []


def test_an_override_that_later_ones_cover_is_noted(effective: Make) -> None:
    made = effective(override(scope="layers = [0]") + override(limit="at_most = 9e-3"))
    assert made.notes == [
        "override 1 of ckptaudit.toml (spectral-drift) decides nothing: later ones cover all that it names"
    ]


def test_the_strictest_limit_is_the_one_a_bound_has_to_meet(effective: Make, rlvr: CheckFile) -> None:
    drift, overlap = rlvr.by_id["spectral-drift"], rlvr.by_id["low-magnitude-overlap"]
    made = effective(
        override(limit="at_most = 1e-4", scope="layers = [0]")
        + override("low-magnitude-overlap", "at_least = 0.9", "layers = [1]")
    )
    assert made.limits(drift, RUN).strictest(drift) == 1e-4
    assert made.limits(overlap, RUN).strictest(overlap) == 0.9


def test_an_average_takes_a_limit_for_whole_layers(effective: Make, rlvr: CheckFile) -> None:
    made = effective(override("update-sparsity", "at_least = 0.1", "layers = [2]"))
    assert limit_of(made, rlvr, "2.mlp.up_proj", "update-sparsity") == 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (override("spectral-drfit"), ["override 1, key check", "did you mean spectral-drift"]),
        (waiver("same-dtypes"), ["waiver 1, key check", "it belongs to profile integrity"]),
        (override(limit="at_least = 1"), ["override 1, key at_least", "has at_most"]),
        (override("update-sparsity", "at_most = 1"), ["override 1, key at_most", "has at_least"]),
        (override(scope='roles = ["v_pro"]'), ["key roles", "'v_pro'", "did you mean v_proj"]),
        (override(scope='roles = ["v_proj", "embed_tokens"]'), ["key roles", "'embed_tokens'"]),
        (override(scope="layers = [0, 9]"), ["key layers", "9 selects none", "there are layers 0 to 3"]),
        (override(scope='tensors = ["model.layers.2.mlp.up_proj"]'), ["key tensors", "mlp.up_proj.weight?"]),
        (override(scope='roles = ["v_proj"]\ntensors = ["*up_proj*"]'), ["together they select none"]),
        (override("aligned", "at_most = 1", 'roles = ["all"]'), ["aligned judges the pair as one"]),
        (
            override("update-sparsity", "at_least = 0.1", 'roles = ["v_proj"]'),
            ["weighted mean of 7 tensors", "names 1 of them", "whole layers"],
        ),
        (waiver(subject="layer.3"), ["waiver 1, key subject", "did you mean layers.3"]),
        (waiver(subject="*.v_projection.*"), ["waiver 1, key subject", "no subject and no tensor"]),
        (waiver("aligned", "lm_heads"), ["waiver 1, key subject"]),
        (override("x") + waiver("y"), ["override 1", "waiver 1"]),
    ],
)
def test_what_means_nothing_here_is_refused_with_the_nearest_names(
    effective: Make, text: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        effective(text)
    said = str(caught.value)
    assert "ckptaudit.toml" in said
    assert "\n" not in said
    assert all(word in said for word in words), said


def test_a_severity_is_changed_for_the_whole_check_and_strictness_undoes_a_warning(
    effective: Make, rlvr: CheckFile
) -> None:
    text = "".join(override(c, f'severity = "{s}"') for c, s in (("update-size", "warn"), ("update-rank", "info")))
    lenient, strict = effective(text), effective(text, strict=True)
    severities = [
        [made.effective(rlvr.by_id[c]).severity for c in ("update-size", "update-rank", "finite")]
        for made in (lenient, strict)
    ]
    assert severities == [["warn", "info", "gate"], ["gate", "info", "gate"]]


@pytest.mark.parametrize(
    ("subject", "touched", "tensors"),
    [
        ("layers.3", {"layers.3"}, 0),
        ("*.v_proj.*", {f"layers.{i}" for i in range(4)}, 4),
        ("model.layers.1.mlp.up_proj.weight", {"layers.1"}, 1),
    ],
)
def test_a_waiver_speaks_of_a_subject_or_of_tensors(
    effective: Make, rlvr: CheckFile, subject: str, touched: frozenset[str], tensors: int
) -> None:
    (applied,) = effective(waiver(subject=subject)).waivers(rlvr.by_id["spectral-drift"], RUN)
    assert (applied.touched, len(applied.tensors)) == (frozenset(touched), tensors)


@pytest.mark.parametrize(("until", "ended"), [("2026-11-23", True), ("2026-11-24", False)])
def test_a_waiver_holds_through_its_last_day(effective: Make, rlvr: CheckFile, until: str, ended: bool) -> None:
    (applied,) = effective(waiver(until=until)).waivers(rlvr.by_id["spectral-drift"], RUN)
    assert applied.has_ended is ended
