"""The files under examples/ parse, and the commands in them do what they say."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
WHERE = {"PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"}


def loaded(name: str) -> dict[Any, Any]:
    found = yaml.safe_load((EXAMPLES / name).read_text())
    assert isinstance(found, dict)
    return found


def gitlab_commands() -> list[str]:
    job = loaded("gitlab-ci.yml")["checkpoint-audit"]
    return [*job["script"], *job["after_script"]]


def github_commands() -> list[str]:
    return [step["run"] for step in loaded("github-actions.yml")["jobs"]["audit"]["steps"] if "run" in step]


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | WHERE | more
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path, small_pair: tuple[Path, Path]) -> Path:
    """A folder with base/ and runs/latest/, the second scaled so that the gate closes."""
    folder = tmp_path / "project"
    shutil.copytree(small_pair[0], folder / "base")
    shutil.copytree(small_pair[1], folder / "runs" / "latest")
    file = folder / "runs" / "latest" / "model.safetensors"
    save_file({k: v * 1.1 for k, v in load_file(file).items()}, file)
    return folder


@pytest.mark.parametrize("commands", [github_commands(), gitlab_commands()], ids=["github", "gitlab"])
def test_the_jobs_run_and_leave_the_files_they_keep(project: Path, commands: list[str]) -> None:
    install, gate, *after = map(shlex.split, commands)
    assert install[:2] == ["pip", "install"]
    ended = run([*gate, "-k", "spectral-drift or aligned"], project, GITHUB_ACTIONS="", GITHUB_STEP_SUMMARY="")
    assert ended.returncode == 1
    for command in after:
        assert run(command, project).returncode == 0
    assert {p.name for p in project.glob("audit.*")} == {
        "audit.xml",
        "audit.json",
        *(["audit.md"] if after else []),
    }


def test_gitlab_keeps_the_files_even_when_the_gate_closes() -> None:
    kept = loaded("gitlab-ci.yml")["checkpoint-audit"]["artifacts"]
    assert (kept["when"], kept["reports"]) == ("always", {"junit": "audit.xml"})


def test_on_a_runner_of_githubs_summary_and_annotations_come_by_themselves(project: Path) -> None:
    gate = shlex.split(github_commands()[1])
    summary = project / "summary.md"
    told = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    ended = run([*gate, "-k", "spectral-drift or aligned", "-p", "no:xdist", "-q"], project, **told)
    assert ended.returncode == 1
    lines = [x for x in ended.stdout.splitlines() if x.startswith("::")]
    assert len(lines) == 1
    assert lines[0].startswith("::error title=spectral-drift broken")
    assert summary.read_text().startswith("## Checkpoint audit: gate closed, worst spectral-drift")


def test_the_hook_lets_branches_pass_and_keeps_a_tag_behind_a_closed_gate(project: Path) -> None:
    def git(*words: str) -> subprocess.CompletedProcess[str]:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return run(["git", *who, *words], project, PYTEST_ADDOPTS="-k 'spectral-drift or aligned'")

    assert git("init", "-q", "-b", "main").returncode == 0
    subprocess.run(["git", "init", "-q", "--bare", str(project.parent / "remote")], check=True)
    git("remote", "add", "origin", str(project.parent / "remote"))
    git("commit", "-q", "--allow-empty", "-m", "first")
    git("tag", "v1")
    shutil.copy(EXAMPLES / "pre-push", project / ".git" / "hooks" / "pre-push")

    assert git("push", "-q", "origin", "main").returncode == 0
    unset = git("push", "-q", "origin", "v1")
    assert unset.returncode != 0
    assert "git config" in unset.stderr
    git("config", "ckptaudit.base", "base")
    git("config", "ckptaudit.tuned", "runs/latest")
    closed = git("push", "-q", "origin", "v1")
    assert closed.returncode != 0
    assert "the tag stays here" in closed.stderr
    git("config", "ckptaudit.tuned", "base")
    assert git("push", "-q", "origin", "v1").returncode == 0
    assert (project / ".git" / "audit.json").is_file()


def shared_out(project: Path, measure: Callable[[int], tuple[list[str], dict[str, str]]]) -> dict[str, Any]:
    """The result of an audit whose two shards are measured by two processes at once, as an example says."""
    plan = ["ckptaudit", "plan", "--base", "base", "--tuned", "runs/latest", "-o", "plan.json"]
    assert run(plan, project).returncode == 0
    processes = [
        subprocess.Popen(command, cwd=project, env=os.environ | WHERE | more)
        for command, more in map(measure, range(2))
    ]
    assert [process.wait() for process in processes] == [0, 0]
    parts = sorted(map(str, project.rglob("part-*.parquet")))
    ended = run(["ckptaudit", "collect", "plan.json", *parts, "--audit-json", "audit.json"], project)
    assert ended.returncode == 1, ended.stderr
    return dict(json.loads((project / "audit.json").read_text())["summary"])


def test_the_slurm_array_measures_one_shard_in_each_task(project: Path) -> None:
    script = (EXAMPLES / "slurm-array.sh").read_text().replace("shards=8", "shards=2")
    (project / "array.sh").write_text(script)

    def task(index: int) -> tuple[list[str], dict[str, str]]:
        return ["bash", "array.sh", "plan.json"], {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_CPUS_PER_TASK": "1"}

    summary = shared_out(project, task)
    assert summary["errors"] == 0
    assert summary["failed"] > 0


def test_the_slurm_array_has_as_many_tasks_as_shards() -> None:
    script = (EXAMPLES / "slurm-array.sh").read_text()
    assert "#SBATCH --array=0-7\n" in script
    assert "\nshards=8 " in script


def test_the_kubernetes_job_measures_one_shard_in_each_pod(project: Path) -> None:
    job = loaded("kubernetes-job.yaml")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert (job["completionMode"], job["completions"]) == ("Indexed", 8)
    command, (script,) = container["command"], container["args"]
    assert '"$JOB_COMPLETION_INDEX/8"' in script
    script = script.replace("/8", "/2").replace("/audit/", f"{project}/")
    fixed = {entry["name"]: "1" for entry in container["env"]}

    def pod(index: int) -> tuple[list[str], dict[str, str]]:
        return [*command, script], {"JOB_COMPLETION_INDEX": str(index), **fixed}

    summary = shared_out(project, pod)
    assert summary["errors"] == 0
    assert summary["failed"] > 0
