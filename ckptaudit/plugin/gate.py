"""The audit as a plugin of one pytest run: which files, what to measure, what to write, which exit code."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from _pytest.junitxml import xml_key
from msgspec.structs import replace

from ckptaudit.errors import CkptAuditError, ReportError, printable
from ckptaudit.judging.check_files import CheckFile, holds_checks, load_checks
from ckptaudit.judging.config import check_files
from ckptaudit.judging.judge import Verdict, undecidable
from ckptaudit.judging.plan import Request
from ckptaudit.judging.profiles import bundled_check_files, bundled_checks, companions
from ckptaudit.measurement.base_cache import open_cache
from ckptaudit.measurement.jobs import batch_budget
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.pairing.auxiliary import INPUTS
from ckptaudit.pipeline.session import AuditSession
from ckptaudit.plugin.items import CheckCollector, CheckItem
from ckptaudit.plugin.junit import show_in_junit
from ckptaudit.plugin.outputs import Outputs
from ckptaudit.plugin.progress import show_progress
from ckptaudit.plugin.settings import CONFIG, settings_of
from ckptaudit.report.github import announce
from ckptaudit.report.junit import suite_properties
from ckptaudit.report.terminal import render_summary
from ckptaudit.report.unheeded import unheeded
from ckptaudit.results.baseline import load_released
from ckptaudit.results.records import AuditResult

STORE = "ckptaudit_store"
REPORTED = "ckptaudit_reported"
CANNOT_BE_JUDGED = int(pytest.ExitCode.USAGE_ERROR)


class Gate:
    """Raises CkptAuditError while being built if the request cannot be judged."""

    def __init__(self, config: pytest.Config, base: str, tuned: list[str]) -> None:
        self.config = config
        self.worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.outputs = Outputs(config)
        self.shared: TemporaryDirectory[str] | None = None
        self.settings = settings_of(config, (base, *tuned))
        standing = check_files(self.settings, config.getoption("audit_profile") or "")
        self.bundled_run = config.args_source is not pytest.Config.ArgsSource.ARGS
        self.session = AuditSession(
            base,
            tuned,
            device=config.getoption("audit_device"),
            exact=config.getoption("audit_exact"),
            cache=open_cache(config.getoption("audit_cache")),
            memory=batch_budget(config.getoption("audit_memory")),
            store=MeasurementStore(Path(self.worker[STORE]) if self.worker else None),
            command=("pytest", *map(str, config.invocation_params.args)),
            profile=standing[0].path.stem if self.bundled_run else "",
            inputs={name: path for name in INPUTS if (path := config.getoption(f"audit_{name}")) is not None},
            several=config.getoption("audit_several"),
        )
        joining = {over: load_checks(path) for over, path in companions(standing[0].path.stem).items()}
        known = (*standing, *joining.values())
        standing += tuple(file for over, file in joining.items() if over in self.session.compares)
        named = [str(file.path) for file in standing] if self.bundled_run else map(_resolved, config.args)
        config.args[:] = list(named)
        self.files = _check_files(config.args)
        self.session.agree(
            self.settings,
            list(self.files.values()),
            known=known,
            strict=config.getoption("audit_strict"),
            # What pytest calls an expected failure is a waived one here, and --runxfail wants none.
            forgiving=not config.getoption("runxfail"),
        )
        self._take_up_comparisons()
        for file in self.files.values():
            self.session.admit(file)
        self.verdicts: dict[str, Verdict] = {}
        if self.worker:
            _share_cores()

    def _take_up_comparisons(self) -> None:
        against = self.config.getoption("audit_against")
        if against is not None:
            factor = self.config.getoption("audit_against_factor")
            self.session.released = load_released(Path(against), self.session.opened_base, factor=factor)
        if self.outputs.plot is not None and "steps" not in self.session.compares:
            raise ReportError(
                f"--audit-plot {printable(self.outputs.plot)}: --tuned names no two saves of one run, so nothing "
                "can be drawn; pass FOLDER@all, or --audit-several steps."
            )

    def pytest_report_header(self) -> list[str]:
        """What is judged, by what, and where."""
        runs = ", ".join(printable(run.path) for run in self.session.runs)
        what = self.session.profile or "given files"
        path = self.settings.path
        by = f", configuration {printable(_from_root(path, self.config))}" if path else ""
        lines = [
            f"ckptaudit: base {printable(self.session.base)}, tuned {runs}",
            f"ckptaudit: checks {what}, device {self.session.device}{by}",
        ]
        if released := self.session.released:
            lines.append(
                f"ckptaudit: no more than {released.factor:g} times worse than {printable(released.tuned)} "
                f"({printable(released.path)})"
            )
        return lines

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Check files given by name, and those found in folders."""
        if file_path.suffix != ".toml" or not (parent.session.isinitpath(file_path) or holds_checks(file_path)):
            return None
        collector = CheckCollector.from_parent(parent, path=file_path, **_node_id(file_path))  # type: ignore[arg-type]
        collector.file = self.files.get(file_path.resolve()) or load_checks(file_path)
        collector.session_of_audit = self.session
        return collector

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Measure for what is left after selection; all metrics where the whole JSON was asked for."""
        requests = [item.request for item in session.items if isinstance(item, CheckItem)]
        all_asked = sum(1 for file in self.files.values() for _ in self.session.requests(file))
        reported = self.worker[REPORTED] if self.worker else bool(self.outputs)
        whole = self.bundled_run and len(requests) == all_asked
        self.session.expect(requests, everything=reported and whole)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Measure ahead of the tests, with a progress display, where nothing can stop the run midway."""
        config = self.config
        distributed = self.worker is not None or config.pluginmanager.hasplugin("dsession")
        if distributed or config.option.collectonly or config.getoption("maxfail") or session.testsfailed:
            return
        # The item that needs what cannot be measured asks again, and reports it as its own error.
        units = self.session.units([i.request for i in session.items if isinstance(i, CheckItem)])
        show_progress(self.session.measure_together(units), config)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Send the verdict along with the report: from a worker process nothing else comes back."""
        report = yield
        if isinstance(item, CheckItem) and item.verdict is not None:
            decided_in = "call" if item.verdict.outcome in ("passed", "failed", "waived") else "setup"
            if report.when == decided_in:
                report.audit_verdict = msgspec.to_builtins(item.verdict)
            if item.verdict.outcome == "error" and report.when == "setup":
                # pytest asks items for their own words in the call phase only.
                report.longrepr = item.repr_failure(call.excinfo) if call.excinfo else None
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather verdicts where the reports come together."""
        sent = getattr(report, "audit_verdict", None)
        if sent is not None:
            self.verdicts[report.nodeid] = msgspec.convert(sent, Verdict)
            show_in_junit(self.config, report)
        elif report.failed and report.nodeid not in self.verdicts and (request := self._asked(report.nodeid)):
            reason = "the process that judged it broke off"
            verdict = undecidable(request.check, request.subject, request.run.path, reason, request.limits)
            self.verdicts[report.nodeid] = replace(verdict, test=report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Take the checkpoints' fingerprints before anything is measured; name the pair in the JUnit file."""
        if self.worker is not None or self.config.option.collectonly:
            return
        try:
            checkpoints = self.session.checkpoints
        except CkptAuditError as error:
            raise pytest.UsageError(str(error)) from None
        xml = self.config.stash.get(xml_key, None)
        if xml is not None:
            for name, value in suite_properties(checkpoints, self.session.about()):
                xml.add_global_property(name, value)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports; and never leave with 0 when nothing was judged."""
        if self.worker is not None or self.config.option.collectonly:
            return
        for sentence in self.outputs.write(self.result) if self.outputs else ():
            self._refuse(session, sentence)
        judged = any(v.outcome in ("passed", "failed", "waived") for v in self.verdicts.values())
        if self.files and not judged and session.exitstatus == pytest.ExitCode.OK:
            self._refuse(session, "nothing was judged: every check was skipped; look at the reasons above.")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        """The table of verdicts, where they broke, and the answer; annotations where the log is GitHub's."""
        if self.worker is not None or not self.verdicts:
            return
        if not self.config.option.no_summary:
            terminalreporter.section("checkpoint audit", sep="=")
            for line in (*self._summary(int(exitstatus)), *self.outputs.announced()):
                terminalreporter.write_line(line)
        for line in announce(self.result, os.environ):
            terminalreporter.write_line(line)
        cache = self.session.cache
        if cache is not None and cache.trouble:
            terminalreporter.write_line(f"note: nothing more was kept in the cache ({cache.trouble})")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where the measurements are shared, so that each is taken once."""
        if self.shared is None:
            self.shared = TemporaryDirectory(prefix="ckptaudit-")
            self.session.store.folder = Path(self.shared.name)
        node.workerinput[CONFIG] = str(self.settings.path or "")
        node.workerinput[STORE] = self.shared.name
        node.workerinput[REPORTED] = bool(self.outputs)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keep a layer's checks in one process under the plain `-n`; an explicit --dist is obeyed."""
        if config.getoption("dist") != "load":
            return None
        from ckptaudit.plugin.scheduling import SubjectScheduling

        return SubjectScheduling(config, log)

    def pytest_unconfigure(self) -> None:
        """Remove the shared folder."""
        if self.shared is not None:
            self.shared.cleanup()

    def _summary(self, exit_code: int) -> list[str]:
        writer = self.config.get_terminal_writer()
        text = render_summary(
            self.result,
            width=writer.fullwidth,
            colour=writer.hasmarkup,
            verbosity=self.config.get_verbosity(),
            exit_code=exit_code,
        )
        return [*text.splitlines(), *unheeded(self.result.verdicts)]

    @cached_property
    def result(self) -> AuditResult:
        """All that was found, once every verdict has been given; in the checks' order, whoever judged first."""
        asked = (r for file in self.files.values() for r in self.session.requests(file))
        order = {(r.run.path, r.check.id, r.subject): position for position, r in enumerate(asked)}
        last = len(order)
        verdicts = sorted(self.verdicts.values(), key=lambda v: order.get((v.tuned, v.check, v.subject), last))
        return self.session.result(verdicts, self.session.spectra(verdicts) if self.outputs.shows_spectra else ())

    def _asked(self, nodeid: str) -> Request | None:
        name = nodeid.rpartition("::")[2]
        requests = (r for file in self.files.values() for r in self.session.requests(file))
        return next((r for r in requests if r.name == name), None)

    def _refuse(self, session: pytest.Session, sentence: str) -> None:
        session.exitstatus = CANNOT_BE_JUDGED
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"ERROR: {sentence}", red=True)


def _resolved(argument: str) -> str:
    """An argument that names a bundled file by its id, as printed in a report, finds that file."""
    name, colons, rest = argument.partition("::")
    bundled = bundled_checks() / name
    if name.endswith(".toml") and not Path(name).exists() and Path(name).name == name and bundled.is_file():
        return f"{bundled}{colons}{rest}"
    return argument


def _check_files(arguments: list[str]) -> dict[Path, CheckFile]:
    """Check files named, and those in folders named, all read now: a mistake in one must end the run."""
    found: dict[Path, CheckFile] = {}
    for argument in arguments:
        path = Path(argument.partition("::")[0])
        if path.suffix == ".toml":
            found[path.resolve()] = load_checks(path)
        elif path.is_dir():
            found |= {p.resolve(): load_checks(p) for p in sorted(path.rglob("*.toml")) if holds_checks(p)}
    return found


def _node_id(path: Path) -> dict[str, str]:
    """Bundled checks are known by their file name alone, wherever they are installed."""
    bundled = path.resolve() in {p.resolve() for p in bundled_check_files()}
    return {"nodeid": path.name} if bundled else {}


def _from_root(path: Path, config: pytest.Config) -> Path:
    return path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path


def _share_cores() -> None:
    import torch

    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
