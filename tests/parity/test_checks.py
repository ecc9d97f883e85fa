"""Every check of parity holds on a right pair and is broken by the damage that it names."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.profiles import bundled_checks, profiles
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.opening import open_audit
from ckptaudit.pipeline.proving import prove
from tests.parity.adapters import made, rewritten
from tests.parity.test_merged import KINDS, pytestmark  # noqa: F401  # the same libraries warn here
from tests.parity.test_soup import linear, merged

FILES = {name: load_checks(bundled_checks() / f"{name}.toml") for name in ("equal", "merged", "soup")}
OWN = [
    pytest.param(name, check, id=check.id)
    for name, file in FILES.items()
    for check in file.checks
    if file.home(check) == f"{name}.toml"
]


@dataclass(frozen=True)
class Right:
    """A pair of which every claim of its profile is true, and its inputs."""

    base: Path
    tuned: Path
    inputs: dict[str, str]


@pytest.fixture(scope="module")
def right(
    fixture_pairs: Path, llama: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Right]:
    """By profile a right pair."""
    folder, base = tmp_path_factory.mktemp("right"), fixture_pairs / "base"

    def equal() -> Right:
        shutil.copytree(base, folder / "copy")
        return Right(base, folder / "copy", {})

    def of_adapter() -> Right:
        paths = made(folder, copy.deepcopy(llama).to(torch.bfloat16), KINDS["lora"])
        return Right(paths.base, paths.merged, {"adapter": str(paths.adapter)})

    def of_parents() -> Right:
        parents = [fixture_pairs / "rlvr", fixture_pairs / "sft"]
        origin, *others = (load_file(path / "model.safetensors") for path in (base, *parents))
        tuned = rewritten(base, merged(linear([0.6, 0.4]), origin, others), folder / "soup")
        return Right(base, tuned, {"parents": ",".join(map(str, parents))})

    makers = {"equal": equal, "merged": of_adapter, "soup": of_parents}
    known: dict[str, Right] = {}

    def pair(name: str) -> Right:
        if name not in known:
            known[name] = makers[name]()
        return known[name]

    return pair


@pytest.mark.parametrize(("name", "check"), OWN)
def test_a_check_holds_on_a_right_pair_and_breaks_by_its_damage(
    name: str, check: Check, right: Callable[[str], Right]
) -> None:
    pair = right(name)
    sides = {"base": str(pair.base), "tuned": (str(pair.tuned),), "auxiliary": pair.inputs}
    opened = open_audit(AuditOptions(**sides, cache="off", device="cpu"))  # type: ignore[arg-type]
    proof = prove(opened, check, FILES[name])
    assert {v.outcome for v in proof.intact} == {"passed"}, proof.intact
    assert proof.breaks, proof.damaged


@pytest.mark.parametrize("name", FILES)
def test_a_profile_is_the_file_and_the_artifact(name: str) -> None:
    assert [path.name for path in profiles()[name].checks] == [f"{name}.toml", "artifact.toml"]
    assert {"finite", "aligned", "same-shapes", "coverage", "vocabulary-rows"} <= FILES[name].by_id.keys()
    assert "same-dtypes" not in FILES[name].by_id
    assert ("actually-changed" in FILES[name].by_id) is (name == "soup")  # the others may be their base


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--audit-profile=merged"], "needs --audit-adapter PATH"),
        (["--audit-profile=soup", "--audit-parents=/no/such,/none"], "no such file or directory"),
    ],
)
def test_a_request_that_cannot_be_judged_ends_with_code_4_and_one_line(
    arguments: list[str], words: str, pytester: pytest.Pytester, fixture_pairs: Path
) -> None:
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'sft'}"]
    run = pytester.runpytest(*pair, *arguments)
    assert run.ret == 4
    assert any(line.startswith("ERROR: ") and words in line for line in run.stderr.lines), run.stderr.lines


def test_one_path_as_base_and_tuned_ends_with_code_4(pytester: pytest.Pytester, fixture_pairs: Path) -> None:
    base = fixture_pairs / "base"
    run = pytester.runpytest_subprocess(f"--base={base}", f"--tuned={base}", "--audit-profile=equal")
    assert run.ret == 4
    assert any("--base and --tuned are one path" in line for line in run.stderr.lines), run.stderr.lines
