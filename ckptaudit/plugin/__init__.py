"""pytest glue: options in, exit codes out. Where no audit is asked for it costs nothing and imports no torch."""

from __future__ import annotations

import logging
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptaudit.cli.gate_options import add_options
from ckptaudit.cli.gate_spelling import option
from ckptaudit.cli.pytest_words import is_audit
from ckptaudit.errors import CkptAuditError, printable
from ckptaudit.foreign_files.toml import glance
from ckptaudit.plugin.fixtures import audited_run, layer, measure, model_pair, parametrize_layers
from ckptaudit.plugin.root import take_root_from_where_pytest_started

if TYPE_CHECKING:
    from ckptaudit.plugin.gate import Gate

__all__ = ["audited_run", "layer", "measure", "model_pair"]

_SEVERAL = re.compile(r"-n.{0,8}|--numprocesses.*|--dist.*")
"""Options of pytest-xdist, which pytest itself would only call unknown."""

MARKERS = (
    "audit: a check of ckptaudit on a pair of checkpoints",
    "audit_layer: a check judged layer by layer",
    "audit_matrix: a check judged matrix by matrix",
    "audit_model: a check judged on the model as a whole",
    "audit_step: a check of rollouts judged step by step",
    "audit_run: a check of rollouts judged over the run",
    "audit_probe_set: a check of behavior judged for each probe set",
    "audit_probes: a check of behavior judged over all probes",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the contract."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Keep the checkpoints' folders out of pytest's own set-up; ask in one line for what several processes need."""
    if is_audit(args) and any(_SEVERAL.fullmatch(word) for word in args) and find_spec("xdist") is None:
        raise pytest.UsageError("several processes need pytest-xdist; pip install 'ckptaudit[xdist]'.")
    take_root_from_where_pytest_started(early_config, args)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Open and pair everything before collection; what cannot be judged ends here, with exit code 4."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    base, tuned = config.getoption("base"), config.getoption("tuned")
    alone = config.getoption("audit_rollouts") or config.getoption("audit_scalars")
    if base is None and not tuned and not alone:
        _refuse_checks_without_pair(config)
        return
    if (base is None) != (not tuned):
        missing = "--base PATH" if base is None else "--tuned PATH"
        raise pytest.UsageError(f"an audit compares two checkpoints; {missing} is missing.")
    if config.getoption("usepdb", False):
        raise pytest.UsageError("an audit has no code of yours to debug; leave --pdb out.")
    if config.getoption("audit_debug"):
        logging.getLogger("ckptaudit").addHandler(logging.StreamHandler())
        logging.getLogger("ckptaudit").setLevel(logging.DEBUG)
    try:
        gate = _open_gate(config)
    except CkptAuditError as error:
        raise pytest.UsageError(error.spelled(option)) from None
    config.pluginmanager.register(gate, "ckptaudit-gate")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each layer where the `layer` fixture is asked for."""
    parametrize_layers(metafunc, metafunc.config.pluginmanager.get_plugin("ckptaudit-gate"))


def _open_gate(config: pytest.Config) -> Gate:
    _share_the_machine()
    _import_as_installed(config)
    # Imported late: most pytest runs on a machine audit nothing, and what comes below pulls in torch.
    from ckptaudit.plugin.early_process import early_process

    process = early_process(config)
    if "torch" in sys.modules:
        from ckptaudit.plugin.gate import Gate
    else:
        from ckptaudit.cli.loading import without_garbage_collection

        with without_garbage_collection():
            _load_torch()
            from ckptaudit.plugin.gate import Gate

    return Gate(config, process)


def _import_as_installed(config: pytest.Config) -> None:
    """Take the rest of this package's modules as Python compiled them, not as pytest would.

    pytest rewrites the assertions of every module that is installed along with a plugin. Here none is about a test,
    and where no bytecode may be written all modules would be parsed and compiled again in every run: 0.6 s.
    """
    marked = getattr(getattr(config.pluginmanager, "rewrite_hook", None), "_must_rewrite", None)
    if isinstance(marked, set):
        marked.difference_update([name for name in marked if str(name).partition(".")[0] == "ckptaudit"])


def _load_torch() -> None:
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        raise pytest.UsageError(
            f"torch does not load ({printable(error)[:200]}); install it again; see `ckptaudit doctor`."
        ) from None


def _share_the_machine() -> None:
    """Let the threads of matrix products sleep soon after each instead of waiting busily for the next.

    Busy waiting gains microseconds on an idle machine. Beside other processes it takes their cores and its own: the
    same audit then costs many times the processor time. OpenMP reads this when torch is loaded, never later.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _refuse_checks_without_pair(config: pytest.Config) -> None:
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return
    for argument in config.args:
        path = Path(argument.partition("::")[0])
        if path.suffix == ".toml" and "[[check]]" in glance(path)[1]:
            raise pytest.UsageError(
                f"{printable(path)}: checks judge a pair of checkpoints; give --base PATH and --tuned PATH."
            )
