"""Whatever an outcome rests on beside the weights is covered by digests: altered afterwards, `verify` names it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.checkpoints.digests import FileDigest, file_digests
from ckptaudit.cli import main
from ckptaudit.errors import CheckpointError
from ckptaudit.judging.settings_file import read_settings
from ckptaudit.options import AUXILIARY, AuditOptions
from ckptaudit.pipeline import open_audit
from ckptaudit.pipeline.api import audit
from ckptaudit.release.envelope import open_envelope
from ckptaudit.release.statement import Statement
from ckptaudit.report.html.page import render_html
from ckptaudit.report.markdown import markdown
from ckptaudit.report.model_card import section
from ckptaudit.results.diff import compare
from ckptaudit.results.input_changes import input_changes
from ckptaudit.results.inputs import PARTS, InputName, InputRecord, changed_input, not_here
from ckptaudit.results.inputs import package as this_package
from ckptaudit.results.json_io import read_json, write_json
from ckptaudit.results.records import AuditResult
from tests.conftest import FIXTURES, package
from tests.release.conftest import Release, new_key

OWN = """include = ["more.toml"]
[[check]]
id = "own-finite"
claim = "Every entry is finite."
source = "ours"
metric = "nonfinite_entries"
at_most = 0
per = "layer"
roles = ["all"]
breaks_when = "poison_with_nan"
remedy = "Look."
"""
CONFIG = 'profile = "behavior"\nchecks = ["own.toml"]\n'


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run judged by the real command with probes, verdicts on them, a configuration and its own check files."""
    package("securesystemslib")
    folder = tmp_path_factory.mktemp("judged")
    shutil.copytree(FIXTURES / "rlvr-gentle", folder / "model")
    lines = (FIXTURES / "probes" / "task.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    probes = [{**json.loads(line), "id": f"p{at}", "set": "task"} for at, line in enumerate(lines)]
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, probes)))
    rows = [{"id": f"p{at}", "judge": "gpt", "choice": "tuned"} for at in range(8)]
    (folder / "v.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "own.toml").write_text(OWN)
    (folder / "more.toml").write_text(OWN.replace("own-finite", "more-finite").partition("\n")[2])
    (folder / "ckptaudit.toml").write_text(CONFIG)
    words = ["--base", FIXTURES / "base", "--tuned", "model", "--audit-probes", "p.jsonl"]
    words += ["--audit-verdicts", "v.jsonl", "--audit-digest", "--audit-json", "audit.json"]
    words += ["-k", "verdicts.toml or own.toml", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, words)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    new_key(folder / "key.pem", folder / "key.pub")
    return folder


@pytest.fixture
def released(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """A copy of everything, attested; paths are as they were given, from the folder of the audit."""
    text = (judged / "audit.json").read_text().replace(str(judged), str(tmp_path))
    shutil.copytree(judged, tmp_path, dirs_exist_ok=True)
    (tmp_path / "audit.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    names = ("model", "key.pem", "key.pub", "audit.json", "audit.intoto.json")
    release = Release(tmp_path, *(tmp_path / name for name in names))
    assert release.attest() == 0
    return release


def verified(release: Release, capsys: pytest.CaptureFixture[str], *more: object) -> tuple[int, list[str]]:
    """The exit code, and the lines of what does not hold."""
    capsys.readouterr()
    code = release.verify("--min-coverage", 0, *more)
    return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]


def statement(release: Release) -> Statement:
    return msgspec.json.decode(open_envelope(release.attestation).payload, type=Statement)


def test_an_untouched_folder_is_verified(released: Release, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(released, capsys) == (0, [])


def bundled_in(release: Release) -> InputRecord:
    (found,) = (r for r in statement(release).predicate.ckptaudit_audit.inputs if r.name == "bundled")
    return found


ALTERED = {"verdicts": "v.jsonl", "probes": "p.jsonl", "config": "ckptaudit.toml", "checks": "more.toml"}


@pytest.mark.parametrize("name", ALTERED)
def test_a_file_altered_after_the_audit_fails_and_is_named(
    name: str, released: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    path = released.folder / ALTERED[name]
    path.write_text(path.read_text().replace("tuned", "base") + "\n")
    code, failed = verified(released, capsys)
    assert code == 1
    (line,) = failed
    assert line.split()[1] == name
    assert f"{ALTERED[name]}: not what was judged: its content is another" in line
    assert released.attest() == 4, "nor is it attested once more"
    assert f"--{name}" in capsys.readouterr().err


def test_a_file_that_is_gone_is_named_and_can_be_shown_elsewhere(
    released: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = (released.folder / "v.jsonl").rename(released.folder / "elsewhere.jsonl")
    assert released.verify("--min-coverage", 0) == 0
    assert "v.jsonl is not here, so it was not looked at; --verdicts says where it lies" in capsys.readouterr().out
    assert verified(released, capsys, "--verdicts", moved) == (0, [])
    moved.write_text(moved.read_text().replace('"tuned"', '"tie"'))
    code, failed = verified(released, capsys, "--verdicts", moved)
    assert (code, [line.split()[1] for line in failed]) == (1, ["verdicts"])


@pytest.mark.parametrize("content", ["", "{", 'profile = "behavior"\nchecks = ["own.toml"]\n# \x00'])
def test_settings_that_cannot_be_read_any_more_are_changed_ones(
    content: str, released: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    (released.folder / "ckptaudit.toml").write_text(content)
    code, failed = verified(released, capsys)
    assert (code, [line.split()[1] for line in failed]) == (1, ["config"])


def test_a_path_that_leads_nowhere_ends_the_command(released: Release, capsys: pytest.CaptureFixture[str]) -> None:
    assert released.verify("--min-coverage", 0, "--verdicts", "nowhere.jsonl") == 4
    assert "--verdicts nowhere.jsonl: " in capsys.readouterr().err


def test_a_checkpoint_in_a_store_is_known_by_its_fingerprint_and_not_looked_at(
    released: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    result = read_json(released.result)
    stored = InputRecord(name="reference", path="s3://models/sft", digest="", files=(), fingerprint="ab12")
    write_json(replace(result, inputs=(*result.inputs, stored)), released.result)
    assert released.attest() == 0
    named = {entry.name: entry for entry in statement(released).predicate.configuration}
    assert named["reference"].annotations == {"path": "s3://models/sft", "sampledFingerprint": "ab12"}
    assert released.verify("--min-coverage", 0) == 0
    assert "s3://models/sft is known by its sampled fingerprint alone, so it was not looked at\n" in (
        capsys.readouterr().out
    )
    code, failed = verified(released, capsys, "--reference", released.tuned)
    assert (code, [line.split()[1] for line in failed]) == (1, ["reference"]), "what was asked for was not done"


def test_own_checks_and_bundled_ones_stand_in_the_statement_with_their_digests(released: Release) -> None:
    told = statement(released).predicate
    digests = {entry.name: entry.digest for entry in told.configuration}
    for name in ("own.toml", "more.toml"):
        assert (released.folder / name).is_file()
    assert digests["checks/own.toml"] == {"sha256": file_digests(released.folder / "own.toml")[0].sha256}
    checks = Path(__file__).parents[2] / "checks"
    assert digests["checks/verdicts.toml"] == {"sha256": file_digests(checks / "verdicts.toml")[0].sha256}
    assert {"behavior.toml", "verdicts.toml", "profiles.toml"} <= {f.name for f in bundled_in(released).files}


def test_bundled_checks_of_this_version_are_compared_and_of_another_are_not(released: Release) -> None:
    bundled = bundled_in(released)
    assert not not_here(bundled, this_package())
    assert changed_input(bundled, this_package()) == ""
    doctored = replace(bundled, files=(replace(bundled.files[0], sha256="0" * 64), *bundled.files[1:]))
    assert changed_input(doctored, this_package()) == f"changed {bundled.files[0].name}"
    assert "came with ckptaudit 0.0.1" in not_here(bundled, "ckptaudit 0.0.1")


def test_what_is_said_of_an_input_names_no_file_outside_the_bundled_folder(released: Release) -> None:
    bundled = bundled_in(released)
    outside = replace(bundled, files=(replace(bundled.files[0], name="../pyproject.toml"),))
    assert changed_input(outside, this_package()) == "missing ../pyproject.toml"


def test_results_without_the_later_records_are_read(judged: Path, tmp_path: Path) -> None:
    """Those of a version that covered logs, curves and probes alone, and of one that covered nothing."""
    content = json.loads((judged / "audit.json").read_text())
    probes = next(record for record in content["inputs"] if record["name"] == "probes")
    content["inputs"] = [{key: value for key, value in probes.items() if key != "fingerprint"}]
    (tmp_path / "earlier.json").write_text(json.dumps(content))
    assert [record.name for record in read_json(tmp_path / "earlier.json").inputs] == ["probes"]
    del content["inputs"]
    (tmp_path / "earlier.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "earlier.json").inputs == ()


# Every kind of input.


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file or folder for each input that there is, by name."""
    folder = tmp_path_factory.mktemp("everything")
    weight = "model.layers.0.self_attn.q_proj.weight"
    shape = open_checkpoint(FIXTURES / "base").tensors[weight].shape
    for name, stored in (("gradients", (2, *shape)), ("retain_gradients", (2, *shape)), ("fisher", shape)):
        save_file({weight: torch.ones(stored)}, folder / f"{name}.safetensors")
    for name, source in (
        ("aligned", "rlvr-step40"), ("reference", "sft"), ("adapter_init", "pissa-init"), ("adapter", "lora"),
        ("weak", "dpo"), ("one", "rlvr-step40"), ("two", "rlvr-step70"),
    ):  # fmt: skip
        shutil.copytree(FIXTURES / source, folder / name)
    shutil.copytree(FIXTURES / "rollouts" / "healthy", folder / "log")
    shutil.copy(FIXTURES / "probes" / "task.jsonl", folder / "probes.jsonl")
    (folder / "probes.jsonl").write_text('{"id": "p0", "text": "one and one"}\n')
    (folder / "verdicts.jsonl").write_text('{"id": "p0", "judge": "rm", "model": "tuned", "score": 1}\n')
    released = audit(FIXTURES / "base", FIXTURES / "rlvr-gentle", profile="integrity", complete=False, cache="off")
    write_json(released, folder / "released.json")
    files = {"probes": "probes.jsonl", "verdicts": "verdicts.jsonl", "against": "released.json"}
    files |= {name: f"{name}.safetensors" for name in ("gradients", "retain_gradients", "fisher")}
    files |= {name: name for name in ("aligned", "reference", "adapter_init", "adapter", "weak")}
    return {name: folder / path for name, path in files.items()} | {
        "rollouts": folder / "log", "scalars": folder / "log", "parents": folder / "two",
    }  # fmt: skip


@pytest.fixture(scope="module")
def records(everything: dict[str, Path]) -> dict[str, InputRecord]:
    """What an audit with all of them records; of the two parents the second."""
    given = {name: str(path) for name, path in everything.items() if name != "against"}
    given["parents"] = f"{everything['parents'].parent / 'one'},{everything['parents']}"
    options = AuditOptions(
        base=str(FIXTURES / "base"),
        tuned=(str(FIXTURES / "rlvr-gentle"),),
        auxiliary=given,
        against=str(everything["against"]),
        cache="off",
        digest=True,
    )
    return {record.name: record for record in open_audit(options).inputs}


def test_every_input_that_there_is_is_recorded(records: dict[str, InputRecord]) -> None:
    assert set(records) == {*AUXILIARY, "against"}
    assert set(get_args(InputName)) == {*AUXILIARY, *PARTS, "against", "config", "checks", "bundled"}


def weights_of(path: Path) -> Path:
    return next(iter(path.glob("*.safetensors"))) if path.is_dir() else path


@pytest.mark.parametrize("name", [*AUXILIARY, "against"])
def test_a_changed_byte_of_any_input_is_noticed(
    name: str, everything: dict[str, Path], records: dict[str, InputRecord], tmp_path: Path
) -> None:
    source, record = everything[name], records[name]
    assert record.path == str(source)
    copied = tmp_path / source.name
    (shutil.copytree if source.is_dir() else shutil.copy)(source, copied)
    assert changed_input(record, str(copied)) == ""
    read = {"rollouts": "rollouts.parquet", "scalars": "trainer_state.json"}
    target = copied / read[name] if name in read else weights_of(copied)
    at = target.stat().st_size // 2  # where a log is still known for what it is
    content = bytearray(target.read_bytes())
    content[at] ^= 1
    target.write_bytes(content)
    assert changed_input(record, str(copied))


@pytest.mark.parametrize("beside", ["adapter_config.json"])
def test_what_is_read_beside_the_weights_of_an_adapter_is_part_of_it(
    beside: str, everything: dict[str, Path], records: dict[str, InputRecord], tmp_path: Path
) -> None:
    copied = shutil.copytree(everything["adapter"], tmp_path / "adapter")
    (copied / beside).write_text((copied / beside).read_text().replace("{", "{ ", 1))
    assert changed_input(records["adapter"], str(copied)) == f"changed {beside}"


def test_both_parts_of_a_joined_checkpoint_are_recorded(everything: dict[str, Path]) -> None:
    joined = f"{everything['reference']}+{everything['adapter']}"
    options = AuditOptions(
        base=str(FIXTURES / "base"),
        tuned=(str(FIXTURES / "rlvr-gentle"),),
        auxiliary={"reference": joined},
        cache="off",
        digest=True,
    )
    found = [record.path for record in open_audit(options).inputs]
    assert found == [str(everything["reference"]), str(everything["adapter"])]


def test_what_a_side_was_joined_from_is_recorded_beside_it(tmp_path: Path) -> None:
    """The digest of a side like WEIGHTS+ADAPTER is that of the adapter's folder."""
    sft, lora = FIXTURES / "sft", FIXTURES / "lora"

    def parts(base: object, tuned: object) -> list[tuple[str, str, str]]:
        options = AuditOptions(base=str(base), tuned=(str(tuned),), cache="off", digest=True)
        return [(record.name, record.path, record.tuned) for record in open_audit(options).inputs]

    assert parts(FIXTURES / "base", f"{sft}+{lora}") == [("tuned_part", str(sft), str(lora))]
    assert parts(f"{sft}+{lora}", FIXTURES / "dpo") == [("base_part", str(sft), "")]
    assert parts(FIXTURES / "base", lora) == []


def test_weights_under_a_tuned_adapter_are_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package("securesystemslib")
    for name in ("sft", "lora"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
    new_key(tmp_path / "key.pem", tmp_path / "key.pub")
    tuned = f"{tmp_path / 'sft'}+{tmp_path / 'lora'}"
    result = audit(FIXTURES / "base", tuned, profile="integrity", complete=False, cache="off", digest=True)
    write_json(result, tmp_path / "audit.json")
    names = ("lora", "key.pem", "key.pub", "audit.json", "audit.intoto.json")
    release = Release(tmp_path, *(tmp_path / name for name in names))
    assert release.attest() == 0
    assert "tuned_part" not in [line.split()[1] for line in verified(release, capsys)[1]]
    weights = tmp_path / "sft" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    code, failed = verified(release, capsys)
    assert code == 1
    assert failed[-1].split()[1] == "tuned_part"
    assert "sft: not what was judged: changed model.safetensors" in failed[-1]


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "adapter_model.safetensors"])
def test_one_file_of_several_has_no_digest_of_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match="give the folder"):
        file_digests(tmp_path / name)
    assert len(file_digests(tmp_path)) == 1


def test_digests_are_those_of_before_anything_was_measured(everything: dict[str, Path], tmp_path: Path) -> None:
    """A file that is altered while the audit runs is not attested as if it had been judged."""
    path = tmp_path / "fisher.safetensors"
    shutil.copy(everything["fisher"], path)
    options = AuditOptions(
        base=str(FIXTURES / "base"),
        tuned=(str(FIXTURES / "rlvr-gentle"),),
        auxiliary={"fisher": str(path)},
        cache="off",
        digest=True,
    )
    opened = open_audit(options)
    opened.take_digests()
    before = opened.inputs[0].digest
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert opened.inputs[0].digest == before


# Settings.


def test_of_a_pyproject_the_table_alone_counts(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "a"\n[tool.ckptaudit]\nprofile = "rlvr"\nfrozen = ["x"]\n')
    before = read_settings(project)
    project.write_text('[project]\nname = "b"\n[tool.ckptaudit]\nfrozen = ["x"]\nprofile = "rlvr"\n')
    assert read_settings(project).sha256 == before.sha256
    project.write_text('[tool.ckptaudit]\nprofile = "sft"\nfrozen = ["x"]\n')
    assert read_settings(project).sha256 != before.sha256


# Side by side.


def with_inputs(judged: Path, records: tuple[InputRecord, ...]) -> AuditResult:
    return replace(read_json(judged / "audit.json"), inputs=records)


def test_diff_says_which_inputs_differ(judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read_json(judged / "audit.json")
    other = (FileDigest(".", "1" * 64),)
    altered = tuple(replace(r, files=other) if r.name == "verdicts" else r for r in result.inputs)
    assert compare(result, result).remarks == ()
    assert compare(result, replace(result, inputs=altered)).remarks == (
        "the input verdicts differs: v.jsonl: its content is another",
    )
    write_json(replace(result, inputs=altered), tmp_path / "b.json")
    assert main(["diff", str(judged / "audit.json"), str(tmp_path / "b.json")]) == 0
    assert "note: the input verdicts differs: v.jsonl" in capsys.readouterr().out


def test_diff_of_inputs_in_words() -> None:
    def record(name: InputName, path: str, *contents: str) -> InputRecord:
        files = tuple(FileDigest(f"{at}.toml", text * 64) for at, text in enumerate(contents))
        return InputRecord(name=name, path=path, digest="a", files=files)

    def said(a: list[InputRecord], b: list[InputRecord]) -> Iterator[str]:
        return input_changes(a, b)

    one, other = record("checks", "a.toml", "a"), record("checks", "b.toml", "b")
    assert list(said([one], [])) == []
    assert list(said([one], [record("config", "c", "a")])) == [
        "only the first has the input checks", "only the second has the input config",
    ]  # fmt: skip
    assert list(said([one], [other])) == ["the input checks differs: a.toml, then b.toml"]
    assert list(said([one], [replace(one, path="moved.toml")])) == []
    assert list(said([one], [one, other])) == ["the input checks differs: 1 given, then 2"]
    bundled = [record("bundled", "1", "a", "b")], [record("bundled", "2", "a", "c", "d")]
    assert list(said(*bundled)) == ["the bundled checks differ: changed 1.toml"]


def test_reports_name_the_inputs_with_their_digests(judged: Path) -> None:
    result = read_json(judged / "audit.json")
    digest = next(record.digest for record in result.inputs if record.name == "verdicts")
    assert f"- input verdicts v.jsonl (SHA-256 {digest[:20]}" in markdown(result)
    assert f"| input verdicts | v.jsonl, SHA-256 {digest} |" in section(result)
    page = render_html(result)
    assert '<td>verdicts</td><td class="tensor">v.jsonl</td><td class="n">1</td>' in page
    assert digest in page
