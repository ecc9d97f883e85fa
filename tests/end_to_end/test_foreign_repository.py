"""The action, the component and the recipes, in a repository that is not ours, with the package alone installed."""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.conftest import package
from tests.end_to_end.alone import ROOT
from tests.end_to_end.ci_steps import component, composite

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"


@pytest.fixture
def repository(tmp_path: Path, small_pair: tuple[Path, Path]) -> Path:
    """Somebody else's project, with a pyproject.toml of its own, a base, and runs of both endings."""
    folder = tmp_path / "theirs"
    shutil.copytree(small_pair[0], folder / "base")
    for name in ("latest", "bad run"):
        shutil.copytree(small_pair[1], folder / "runs" / name)
    weights = folder / "runs" / "bad run" / "model.safetensors"
    save_file({k: v * 1.1 for k, v in load_file(weights).items()}, weights)
    (folder / "pyproject.toml").write_text('[project]\nname = "theirs"\nversion = "1"\n')
    (folder / "ckptaudit.toml").write_text('profile = "sft"\n')
    return folder


@pytest.fixture
def runner(tmp_path: Path, programs: Path) -> dict[str, str]:
    """The environment of a runner; its `python` makes environments with the package in them, and downloads nothing.

    What would have been installed is kept in a file.
    """
    temp = tmp_path / "runner"
    temp.mkdir()
    fake = temp / "bin"
    fake.mkdir()
    environment = temp / "ckptaudit" / "bin"
    install = f'#!/bin/sh\\necho "$@" >> {temp}/installed\\n'
    lines = (
        "#!/bin/sh",
        f"mkdir -p {environment}",
        f"ln -sf {programs}/ckptaudit {environment}/ckptaudit",
        f"printf '{install}' > {environment}/python",
        f"chmod +x {environment}/python",
    )
    (fake / "python").write_text("\n".join(lines) + "\n")
    (fake / "python").chmod(0o755)
    return {
        "PATH": f"{fake}{os.pathsep}{os.environ['PATH']}",
        "RUNNER_TEMP": str(temp),
        "GITHUB_ACTION_PATH": str(ROOT),
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "PYTHONPATH": "",
    }


def action() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "action.yml").read_text())
    assert isinstance(found, dict)
    return found


def test_the_action_installs_the_package_and_leaves_the_reports(repository: Path, runner: dict[str, str]) -> None:
    code, outputs = composite(action(), {"base": "base", "tuned": "runs/latest"}, repository, runner)
    assert code == 0
    assert outputs["audit"] == {"exit-code": "0", "gate": "open", "json": "checkpoint-audit/audit.json"}
    left = {p.name for p in (repository / "checkpoint-audit").iterdir()}
    assert left == {"audit.xml", "audit.json", "audit.html", "audit.sarif", "audit.md"}
    assert json.loads((repository / "checkpoint-audit" / "audit.json").read_text())["about"]["profile"] == "sft"
    installed = (Path(runner["RUNNER_TEMP"]) / "installed").read_text()
    assert f"-c {ROOT}/constraints.txt {ROOT}" in installed, "the action's own sources, not the user's project"


def test_the_action_closes_and_passes_options_on(repository: Path, runner: dict[str, str]) -> None:
    given = {
        "base": "base", "tuned": "runs/bad run", "arguments": "--audit-strict -k spectral-drift", "cache": "false",
        "version": "0.1.0", "extras": "hub,remote", "profile": "sft", "reports": "out",
    }  # fmt: skip
    code, outputs = composite(action(), given, repository, runner)
    assert (code, outputs["audit"]["gate"]) == (1, "closed")
    checks = {v["check"] for v in json.loads((repository / "out" / "audit.json").read_text())["verdicts"]}
    assert checks == {"spectral-drift"}
    assert (Path(runner["RUNNER_TEMP"]) / "installed").read_text().endswith("ckptaudit[hub,remote]==0.1.0\n")


def test_what_cannot_be_judged_fails_the_action(repository: Path, runner: dict[str, str]) -> None:
    hostile = "$(touch hacked)`touch hacked`; touch hacked"
    code, outputs = composite(action(), {"base": "base", "tuned": hostile}, repository, runner)
    assert (code, outputs["audit"]["exit-code"]) == (4, "4")
    assert not (repository / "hacked").exists()


@pytest.mark.parametrize(("tuned", "code"), [("runs/latest", 0), ("runs/bad run", 1)])
def test_the_component_runs_there(tuned: str, code: int, repository: Path, programs: Path) -> None:
    text = (ROOT / "templates" / "checkpoint-audit.yml").read_text()
    spec = yaml.safe_load(text.partition("\n---\n")[0])["spec"]["inputs"]
    defaults = {name: (facts or {}).get("default") for name, facts in spec.items()}
    assert [name for name, value in defaults.items() if value is None] == ["base", "tuned"]
    filled = {k: str(v) for k, v in defaults.items()} | {"base": "base", "tuned": tuned, "profile": "sft"}
    job = yaml.safe_load(component(text, filled))["checkpoint-audit"]
    install, gate = job["script"]
    assert install == 'pip install --quiet "ckptaudit"'
    told = shell(gate, repository, programs, **job["variables"])
    assert told.returncode == code, told.stdout + told.stderr
    for command in job["after_script"]:
        assert shell(command, repository, programs).returncode == 0
    kept = {*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]}
    assert all((repository / name).is_file() for name in kept)


def shell(command: str, folder: Path, programs: Path, **more: str) -> subprocess.CompletedProcess[str]:
    own = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | own | more,
        capture_output=True,
        text=True,
        check=False,
    )


SCHEMAS = {
    "action.yml": "vendor.github-actions",
    ".github/workflows/release.yml": "vendor.github-workflows",
    "examples/github-actions.yml": "vendor.github-workflows",
    "examples/gitlab-ci.yml": "vendor.gitlab-ci",
    "ckptaudit/cli/templates/github.yml": "vendor.github-workflows",
    "ckptaudit/cli/templates/gitlab.yml": "vendor.gitlab-ci",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_ci_files_keep_to_their_services_schemas(name: str) -> None:
    package("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[name], str(ROOT / name)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


def test_the_job_of_slurm_is_a_script_that_gates(repository: Path, programs: Path) -> None:
    script = shlex.quote(str(EXAMPLES / "slurm.sbatch"))
    told = shell(f"bash {script} base 'runs/latest' out", repository, programs)
    assert told.returncode == 0, told.stdout + told.stderr
    assert {p.name for p in (repository / "out").iterdir()} == {"audit.xml", "audit.json", "audit.html"}
    assert shell(f"bash {script} base", repository, programs).returncode != 0


def test_the_job_of_kubernetes_has_no_rights_and_gates(repository: Path, programs: Path) -> None:
    job = yaml.safe_load((EXAMPLES / "kubernetes-gate.yml").read_text())["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["backoffLimit"] == 0, "a closed gate is not tried again"
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    words = [word.replace("/models/", "").replace("/reports/", "") for word in container["args"]]
    assert shell(shlex.join(["ckptaudit", "audit", *words]), repository, programs).returncode == 0


def test_the_container_has_no_root_and_copies_what_is_there() -> None:
    lines = (EXAMPLES / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    kinds = [kind for kind, _ in steps]
    assert kinds[0] == "FROM"
    assert kinds.index("USER") > max(i for i, kind in enumerate(kinds) if kind in ("RUN", "COPY"))
    assert next(rest for kind, rest in steps if kind == "USER") != "root"
    for kind, rest in steps:
        if kind == "RUN":
            assert subprocess.run(["bash", "-n", "-c", rest], check=False).returncode == 0
    entry = json.loads(next(rest for kind, rest in steps if kind == "ENTRYPOINT"))
    assert entry[:2] == ["ckptaudit", "audit"]


def test_the_examples_of_orchestrators_call_the_command(repository: Path, programs: Path) -> None:
    argo = yaml.safe_load((EXAMPLES / "argo-workflow.yml").read_text())["spec"]["templates"][0]
    words = [w.replace("{{inputs.parameters.base}}", "base").replace("{{inputs.parameters.tuned}}", "runs/latest")
             for w in argo["container"]["args"]]  # fmt: skip
    found = [shlex.join(["ckptaudit", "audit", *words])]
    found += [command for name in ("airflow_dag.py", "dagster_job.py") for command in commands_in(EXAMPLES / name)]
    assert len(found) == 3
    for command in found:
        told = shell(f"{command} -k finite", repository, programs, BASE="base", TUNED="runs/latest")
        assert told.returncode == 0, told.stdout


def commands_in(path: Path) -> list[str]:
    """The commands of this package that a Python file has as a text or as a list of words."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    texts = [
        str(n.value) for n in nodes if isinstance(n, ast.Constant) and str(n.value).startswith("ckptaudit audit")
    ]
    lists = [n.elts for n in nodes if isinstance(n, ast.List)]
    words = [[str(e.value) for e in elements if isinstance(e, ast.Constant)] for elements in lists]
    return [*texts, *(shlex.join(one) for one in words if one[:1] == ["ckptaudit"])]
