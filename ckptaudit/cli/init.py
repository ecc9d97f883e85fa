"""`ckptaudit init`: a configuration and a CI job for the run that is here."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from ckptaudit import __version__
from ckptaudit.cli.output import show, show_all
from ckptaudit.cli.surroundings import Surroundings, look_around
from ckptaudit.errors import ConfigError, printable
from ckptaudit.judging.profiles import profiles

HELP = "write ckptaudit.toml and a CI job, after a look around and a few questions"

CI = {"github": ".github/workflows/checkpoint-audit.yml", "gitlab": ".gitlab-ci.yml", "none": ""}
"""By the kind of CI, the file that is written."""


PLAIN = re.compile(r"[A-Za-z0-9/._@+=,~ -]{1,400}")
"""Paths that mean themselves to a shell, in YAML and in the expressions of a CI service."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Answers, for those who do not want to be asked."""
    add = parser.add_argument
    add("--base", metavar="PATH", help="the checkpoint that runs start from")
    add("--tuned", metavar="PATH", help="the checkpoint that a run leaves; FOLDER@latest for the newest save")
    add("--profile", metavar="NAME", help=f"which checks: {', '.join(profiles())}")
    add("--ci", choices=CI, help="which CI file to write")
    add("--yes", action="store_true", help="ask nothing: take what was found")
    add("--force", action="store_true", help="replace files that are there")


def run(options: argparse.Namespace) -> int:
    """Look, ask, write; refuses to replace a file without --force. Raises ConfigError."""
    seen = look_around(Path())
    show_all(_seen(seen))
    answers = {
        "base": _answer(options, "base", seen.base or "base", "the checkpoint that runs start from"),
        "tuned": _answer(options, "tuned", seen.tuned or "runs/latest", "the checkpoint to judge"),
        "profile": _answer(options, "profile", seen.profile, f"which checks ({seen.why})"),
        "ci": _answer(options, "ci", seen.ci or "none", "which CI: github, gitlab or none"),
    }
    _refuse(answers)
    written = dict(_files(answers))
    _refuse_existing(written, force=options.force)
    for path, text in written.items():
        _write(path, text)
        show(f"wrote {path}")
    show(f"next: ckptaudit audit --base={_quoted(answers['base'])} --tuned={_quoted(answers['tuned'])}")
    return 0


def _seen(seen: Surroundings) -> Iterator[str]:
    first = ", ".join(map(printable, seen.checkpoints[:5])) or "none"
    yield f"checkpoints here: {len(seen.checkpoints)}, {first}"
    if seen.tuned:
        yield f"{printable(seen.tuned)}: {seen.why}"


def _answer(options: argparse.Namespace, name: str, found: str, question: str) -> str:
    given = getattr(options, name)
    if given is not None:
        return str(given)
    if options.yes:
        return found
    if not sys.stdin.isatty():
        raise ConfigError(f"nobody is there to be asked for --{name}; give it, or --yes to take what was found.")
    return input(f"{name}: {question} [{printable(found)}]: ").strip() or found


def _refuse(answers: dict[str, str]) -> None:
    if answers["profile"] not in profiles():
        raise ConfigError(f"--profile {printable(answers['profile'])}: choose one of {', '.join(profiles())}.")
    if answers["ci"] not in CI:
        raise ConfigError(f"--ci {printable(answers['ci'])}: choose one of {', '.join(CI)}.")
    for name in ("base", "tuned"):
        if not PLAIN.fullmatch(answers[name]):
            raise ConfigError(
                f"--{name} {printable(answers[name])}: a path in a CI file has letters, digits, spaces and "
                "/._-@+=~, alone."
            )


def _files(answers: dict[str, str]) -> Iterator[tuple[Path, str]]:
    yield Path("ckptaudit.toml"), _filled("ckptaudit.toml", answers)
    if CI[answers["ci"]]:
        yield Path(CI[answers["ci"]]), _filled(f"{answers['ci']}.yml", answers)


def _filled(name: str, answers: dict[str, str]) -> str:
    """A template with its @NAME@ replaced."""
    text = (files("ckptaudit.cli") / "templates" / name).read_text(encoding="utf-8")
    known = {"PROFILE": json.dumps(answers["profile"]), "VERSION": __version__}
    known |= {name.upper(): _quoted(answers[name]) for name in ("base", "tuned")}
    for key, value in known.items():
        text = text.replace(f"@{key}@", value)
    return text


def _quoted(path: str) -> str:
    """A path as a shell takes it, in YAML too."""
    return f"'{path}'" if " " in path or "~" in path else path


def _refuse_existing(paths: dict[Path, str], *, force: bool) -> None:
    there = [str(path) for path in paths if path.exists() or path.is_symlink()]
    if there and not force:
        raise ConfigError(f"{' and '.join(there)}: there already; --force replaces, --ci none leaves CI alone.")


def _write(path: Path, text: str) -> None:
    from ckptaudit.atomic_write import write_text

    try:
        write_text(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({printable(error.strerror or error)}).") from None
