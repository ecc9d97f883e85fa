"""docs/options.md, from the options that the pytest plugin and the commands declare."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ckptaudit.cli import collect_parts, plan
from ckptaudit.cli.gate_options import add_options
from ckptaudit.cli.program import _parser

INTRO = """# Options

The gate's options are pytest's: `pytest --base=BASE --tuned=TUNED`, beside every option that pytest has itself.
`ckptaudit audit` takes the same ones. The commands of `ckptaudit` follow below.

`pip install 'ckptaudit[completion]'` and `eval "$(register-python-argcomplete ckptaudit)"` complete commands and
options in a shell; with `pytest` in place of `ckptaudit`, those of the gate behind pytest.
"""

VARIABLES = """## Environment variables

| variable | meaning |
|---|---|
| `CKPTAUDIT_CACHE` | folder of [the cache](cache.md), or `off`; `--audit-cache` wins |
| `CKPTAUDIT_CACHE_LIMIT` | size that the cache may take, such as `5GiB`; default 20GiB |
| `CKPTAUDIT_CACHE_SHARED` | a cache below the own one that is only read: a folder, or a prefix of an object store |
"""

TABLE = ["| option | meaning |", "|---|---|"]


@dataclass
class Recorder:
    """Takes options as pytest's parser does, and keeps them in order."""

    rows: list[str] = field(default_factory=list)

    def getgroup(self, *_: str) -> Recorder:
        """The one group that there is."""
        return self

    def addoption(self, *names: str, **words: Any) -> None:
        """Keep an option."""
        self.rows.append(_row(names, words.get("metavar"), words.get("choices"), words.get("help", "")))


def options_page() -> str:
    """The page of every option and command."""
    recorder = Recorder()
    add_options(recorder)
    parts = [INTRO, "## The gate\n", *TABLE, *recorder.rows, ""]
    for name, command in _commands():
        parts += [
            f"## `ckptaudit {name}`\n",
            f"{_sentence(command.description or '')}\n",
            *TABLE,
            *_arguments(command),
        ]
        parts.append("")
    return "\n".join([*parts, VARIABLES])


def _commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    (found,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help for choice in found._choices_actions}
    for name, command in found.choices.items():
        command.description = helps[name]
        if name == "plan":
            yield name, _alone(plan.HELP, _planning)
        elif name != "audit":
            yield name, command
        if name == "collect":
            yield "collect PLAN", _alone(collect_parts.HELP, collect_parts.arguments)


def _planning(parser: argparse.ArgumentParser) -> None:
    """The arguments of `plan` that are not the gate's."""
    parser.add_argument(
        "gate", metavar="the gate's options", help="but for its reports, and check files in place of a profile's"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="JSON file to write")


def _alone(said: str, declare: Callable[[argparse.ArgumentParser], None]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=said)
    declare(parser)
    return parser


def _arguments(command: argparse.ArgumentParser) -> Iterator[str]:
    for action in command._actions:
        if not isinstance(action, argparse._HelpAction):
            yield _row(*_spelling(action), (action.help or "") % {"default": action.default})


def _spelling(action: argparse.Action) -> tuple[tuple[str, ...], Any, Any]:
    """Names, placeholder and choices of an argument, as a user writes them."""
    placeholder = action.metavar or action.dest.upper()
    if not action.option_strings:
        return ("|".join(map(str, action.choices)) if action.choices else str(placeholder),), None, None
    return tuple(action.option_strings), None if action.nargs == 0 else placeholder, action.choices


def _row(names: tuple[str, ...], metavar: Any, choices: Any, text: str) -> str:
    value = "|".join(map(str, choices)) if choices else metavar
    shown = ", ".join(f"`{name} {value}`" if value else f"`{name}`" for name in names)
    return f"| {_words(shown)} | {_words(text)} |"


def _words(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
