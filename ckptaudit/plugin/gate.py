"""The audit as a plugin of one pytest run: which files, what to measure, what to write, which exit code."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ckptaudit.cli.gate_outputs import Outputs
from ckptaudit.cli.gate_request import audit_options, resolved
from ckptaudit.cli.gate_spelling import option
from ckptaudit.cli.loading import without_garbage_collection
from ckptaudit.errors import CkptAuditError, MeasurementError, ReportError, parameter, printable
from ckptaudit.judging.check_files import CheckFile, holds_checks, load_checks
from ckptaudit.judging.judge import respelled, verdict_of
from ckptaudit.judging.outcomes import undecided
from ckptaudit.judging.plan import AuditPlan, PlannedVerdict
from ckptaudit.judging.verdict import Verdict
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.pipeline import assemble, choose_checks, execute, open_audit, plan
from ckptaudit.pipeline.assembly import about, curves, distributions_of
from ckptaudit.pipeline.causes import Causes
from ckptaudit.pipeline.evidence import refuse_without_evidence
from ckptaudit.pipeline.excerpts import Excerpts
from ckptaudit.pipeline.planning import baseline_of
from ckptaudit.pipeline.workers import workers_of
from ckptaudit.plugin.header import About, header_lines
from ckptaudit.plugin.items import CheckCollector, CheckItem
from ckptaudit.plugin.junit import add_properties, guard_junit, junit_output, show_in_junit
from ckptaudit.plugin.processes import REPORTED, STORE, Processes, share_cores
from ckptaudit.plugin.progress import progress_of
from ckptaudit.plugin.request import named_check_files, names_files, node_id, refuse_logs_among_files
from ckptaudit.plugin.settings import refuse_settings_of_checkpoints, refuse_settings_of_logs, settings_of
from ckptaudit.plugin.tensor_count import TensorCount
from ckptaudit.plugin.terminal import AuditOutput
from ckptaudit.report.github import announce
from ckptaudit.report.junit import coverage_properties, suite_properties
from ckptaudit.results.gate import NOTHING_JUDGED, answer
from ckptaudit.results.records import AuditResult

logger = logging.getLogger(__name__)

CANNOT_BE_JUDGED = int(pytest.ExitCode.USAGE_ERROR)


class Gate:
    """Raises CkptAuditError while being built if the request cannot be judged."""

    def __init__(self, config: pytest.Config, process: subprocess.Popen[bytes] | None = None) -> None:
        """A `process` measures beside this one, as `workers_of` has it."""
        self.config, self._process = config, process
        self.worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.outputs = Outputs(config.getoption, junit_output(config))
        self.settings = settings_of(config)
        by_profile = not names_files(config)
        reported = self.worker[REPORTED] if self.worker else bool(self.outputs)
        self.opened = open_audit(
            audit_options(
                config.getoption,
                complete=reported and by_profile,
                # What pytest calls an expected failure is a waived one here, and --runxfail wants none.
                waivers=not config.getoption("runxfail", default=False),
                command=("pytest", *map(str, config.invocation_params.args)),
            ),
            self.settings.facts,
        )
        if self.opened.options.workers and config.getoption("dist", "no") != "no":
            raise MeasurementError(f"{parameter('workers')} and -n: two ways to share the work out; give one.")
        refuse_settings_of_checkpoints(config, self.settings, self.opened.everything)
        refuse_settings_of_logs(config, self.settings, [log.path for log in self.opened.logs.values()])
        chosen = choose_checks(self.opened, self.settings)
        self.profile, self.known = chosen.profile if by_profile else "", chosen.known
        config.args[:] = [str(f.path) for f in chosen.files] if by_profile else list(map(resolved, config.args))
        if self.opened.logs and not by_profile:
            refuse_logs_among_files(config.args)
        self.files = named_check_files(config.args)
        words = [path for path in (self.settings.path, config.inipath) if path is not None]
        words += [path for file in self.files.values() for path in file.read]
        self.outputs.refuse_what_is_read([*self.opened.places, *words])
        self.baseline = baseline_of(self.opened)
        self._refuse_empty_plot()
        self.everything = self.plan = self._plan(list(self.files.values()))
        refuse_without_evidence(self.plan, self.profile if self.opened.has_pair else "")
        self.store = MeasurementStore(Path(self.worker[STORE]) if self.worker else None)
        self.verdicts: dict[str, Verdict] = {}
        self.causes, self.excerpts = Causes(self.opened), Excerpts()
        self.refused = 0
        self.tensor_count = TensorCount(config, lambda: self.plan)
        self._register()

    def _register(self) -> None:
        plugins: dict[str, object] = {
            "output": AuditOutput(self.config, self._shown, self._announced, lambda code: code or self.refused)
        }
        if self.worker:
            share_cores()
        else:
            plugins["tensor-count"] = self.tensor_count
            plugins["processes"] = Processes(self.store, self.settings.path, reported=bool(self.outputs))
        guard_junit(self.config, self._refuse)
        for name, plugin in plugins.items():
            self.config.pluginmanager.register(plugin, f"ckptaudit-{name}")

    def _plan(self, files: Sequence[CheckFile]) -> AuditPlan:
        # transformers reads the code of a model when it is first asked for one, and all of that stays.
        brings = self.opened.probes is not None and "transformers" not in sys.modules
        with without_garbage_collection() if brings else nullcontext():
            return plan(self.opened, files, self.settings, self.baseline, known=self.known)

    def _refuse_empty_plot(self) -> None:
        if self.outputs.plot is not None and "steps" not in self.opened.compares and not self.opened.logs:
            raise ReportError(
                f"{parameter('plot')} {printable(self.outputs.plot)}: the tuned side is no two checkpoints of one "
                f"run, so nothing can be drawn; pass FOLDER@all, {parameter('several')} steps, or "
                f"{parameter('rollouts')} PATH."
            )

    def pytest_report_header(self) -> list[str]:
        """What is judged, by what, and where."""
        path = self.settings.path
        about = About(self.profile, _from_root(path, self.config) if path else None, self.baseline)
        return header_lines(self.opened, about)

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Check files given by name, and those found in folders."""
        if file_path.suffix != ".toml":
            return None
        bundled = node_id(file_path)
        if not (bundled or parent.session.isinitpath(file_path) or holds_checks(file_path)):
            return None
        collector = CheckCollector.from_parent(parent, path=file_path, **bundled)  # type: ignore[arg-type]
        # pytest makes a collector for each file beside one that was named, and asks only that one.
        collector.plan, collector.judge = partial(self._planned, file_path), self.judge
        return collector

    def _planned(self, path: Path) -> list[PlannedVerdict]:
        if path.resolve() not in self.files:
            self.files[path.resolve()] = load_checks(path)
            self.everything = self.plan = self._plan(list(self.files.values()))
        named = self.files[path.resolve()].path
        return [planned for planned in self.everything.verdicts if planned.path == named]

    def judge(self, planned: PlannedVerdict) -> Verdict:
        """Measure what is missing for one verdict, and decide."""
        try:
            verdict = self.causes.named(verdict_of(planned, self._measured(planned)))
            verdict = self.excerpts.shown(verdict, self.plan, self.store)
        except Exception as error:  # whatever it is, it must end as a verdict that could not be given
            logger.debug("a verdict failed", exc_info=True)
            reason = (
                str(error) if isinstance(error, CkptAuditError) else f"{type(error).__name__}: {printable(error)}"
            )
            verdict = undecided(planned.check, planned.subject, planned.run.path, "error", reason, planned.limits)
        return respelled(verdict, option)

    def _measured(self, planned: PlannedVerdict) -> MeasurementStore:
        return execute(self.plan, self.store, self.tensor_count.within, verdicts=[planned])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Plan for what is left after selection; all metrics where the whole JSON was asked for."""
        self.plan = self.everything.only({i.planned.id for i in session.items if isinstance(i, CheckItem)})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Measure ahead of the tests, with a progress display, where nothing can stop the run midway."""
        config = self.config
        distributed = self.worker is not None or config.pluginmanager.hasplugin("dsession")
        midway = bool(config.getoption("maxfail")) and not self.opened.options.workers
        if distributed or config.option.collectonly or session.testsfailed:
            return
        if midway:
            self.tensor_count.start()
            return
        try:
            with (
                progress_of(config) as progress,
                workers_of(self.opened, self.plan, self._process) as workers,
            ):
                spread = workers.units if workers is not None and workers.are_asked_for else None
                execute(
                    self.plan, self.store, progress.tensors, source=workers, units=spread, tokens=progress.tokens
                )
        except CkptAuditError as error:  # there are no such workers
            raise pytest.UsageError(error.spelled(option)) from None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Send the verdict along with the report: from a worker process nothing else comes back."""
        report = yield
        if isinstance(item, CheckItem) and item.verdict is not None:
            decided_in = "call" if item.verdict.outcome in ("passed", "failed", "waived") else "setup"
            if report.when == decided_in:
                report.audit_verdict = msgspec.to_builtins(item.verdict)
            if item.verdict.outcome == "skipped" and report.when == "setup":
                report.longrepr = (item.location[0], None, printable(item.verdict.reason))
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
        elif report.failed and report.nodeid not in self.verdicts and (asked := self._asked(report.nodeid)):
            reason = "the process that judged it broke off"
            verdict = undecided(asked.check, asked.subject, asked.run.path, "error", reason, asked.limits)
            self.verdicts[report.nodeid] = replace(verdict, test=report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Take the checkpoints' fingerprints before anything is measured; name the pair in the JUnit file."""
        if self.worker is not None or self.config.option.collectonly:
            return
        try:
            checkpoints = self.opened.checkpoints
            self.opened.take_digests()
        except CkptAuditError as error:
            raise pytest.UsageError(error.spelled(option)) from None
        add_properties(self.config, lambda: suite_properties(checkpoints, about(self.opened, self.profile)))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports; and never leave with 0 when nothing was judged."""
        if self.worker is not None:
            return
        if self.config.option.collectonly:
            # A pipeline that this option has slipped into must not take a list of checks for an open gate.
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
            return
        for sentence in self.outputs.write(lambda: self.result) if self.outputs else ():
            self._refuse(session, sentence)
        if self.files and session.exitstatus == pytest.ExitCode.OK:
            cause = answer([*self.verdicts.values()]).cause
            if cause == NOTHING_JUDGED:
                self._refuse(session, "nothing was judged: every check was skipped; look at the reasons above.")
            elif cause:
                self._refuse(session, f"{cause}.")

    @pytest.hookimpl(tryfirst=True, specname="pytest_sessionfinish")
    def pytest_name_coverage_in_junit(self, session: pytest.Session) -> None:
        """How much was judged, as properties of the JUnit file, before pytest writes it."""
        if self.worker is None and self.verdicts and not self.config.option.collectonly:
            add_properties(self.config, lambda: coverage_properties(self.result))

    def _shown(self) -> AuditResult | None:
        """What the terminal shows; None where no verdict was given."""
        if not self.verdicts or self.worker is not None:
            return None
        return self.result

    def _announced(self) -> list[str]:
        """Where the files are; annotations where the log is GitHub's."""
        lines = [*announce(self.result, os.environ), *self.outputs.announced()]
        cache = self.opened.cache
        if cache is not None and cache.trouble:
            lines.append(f"note: nothing more was kept in the cache ({cache.trouble})")
        if cache is not None and (shortage := cache.shortage):
            lines.append(f"note: {shortage}")
        return lines

    @cached_property
    def result(self) -> AuditResult:
        """All that was found, once every verdict has been given; in the checks' order, whoever judged first."""
        planned = self.everything.verdicts
        order = {(p.run.path, p.check.id, p.subject): position for position, p in enumerate(planned)}
        last = len(order)
        verdicts = sorted(self.verdicts.values(), key=lambda v: order.get((v.tuned, v.check, v.subject), last))
        return assemble(
            self.opened,
            self.everything,
            verdicts,
            self.store,
            profile=self.profile,
            baseline=self.baseline,
            spelling=option,
            spectra=curves(self.opened, verdicts) if self.outputs.shows_spectra else (),
            drawn=distributions_of(self.opened) if self.outputs.shows_spectra else None,
        )

    def _asked(self, nodeid: str) -> PlannedVerdict | None:
        name = nodeid.rpartition("::")[2]
        return next((planned for planned in self.everything.verdicts if planned.name == name), None)

    def _refuse(self, session: pytest.Session, sentence: str) -> None:
        session.exitstatus = self.refused = CANNOT_BE_JUDGED
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            if reporter._tw.width_of_current_line:
                reporter.write_line("")
            reporter.write_line(f"ERROR: {sentence}", red=True)
        else:
            print(f"ERROR: {sentence}", file=sys.stderr)


def _from_root(path: Path, config: pytest.Config) -> Path:
    return path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path
