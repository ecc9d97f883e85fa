"""What pytest's JUnit file would not show: what was judged, and words of broken claims that close no gate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from _pytest.junitxml import bin_xml_escape, xml_key

from ckptaudit.errors import ReportError, printable
from ckptaudit.foreign_files.outputs import Output
from ckptaudit.plugin.items import UNHEEDED

logger = logging.getLogger(__name__)


def junit_output(config: pytest.Config) -> list[Output]:
    """The JUnit file that pytest will write in this process, if any. Raises ReportError for one without a name."""
    if config.getoption("xmlpath", None) == "":
        raise ReportError("--junitxml: names no file; give one, or leave the option out.")
    xml = config.stash.get(xml_key, None)
    return [] if xml is None else [Output(Path(xml.logfile), "--junitxml", in_place=True)]


def guard_junit(config: pytest.Config, refuse: Callable[[pytest.Session, str], None]) -> None:
    """Have `refuse` told where the JUnit file cannot be written in the end, and let the run end as it would.

    pytest itself would break off with a traceback, and leave all other reports unwritten.
    """
    xml = config.stash.get(xml_key, None)
    if xml is None:
        return
    write = xml.pytest_sessionfinish

    def pytest_sessionfinish(session: pytest.Session) -> None:
        try:
            write()
        except Exception as error:
            logger.debug("the JUnit file failed", exc_info=True)
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            refuse(session, f"--junitxml {printable(xml.logfile)}: cannot be written ({printable(why)}).")
            # Nor does it announce the file.
            config.pluginmanager.unregister(xml)
            del config.stash[xml_key]

    config.pluginmanager.unregister(xml)
    xml.pytest_sessionfinish = pytest_sessionfinish  # type: ignore[assignment]
    config.pluginmanager.register(xml)


def add_properties(config: pytest.Config, properties: Callable[[], Iterator[tuple[str, str]]]) -> None:
    """Give the suite properties, if a JUnit file is written; they are not asked for otherwise."""
    xml = config.stash.get(xml_key, None)
    if xml is not None:
        for name, value in properties():
            xml.add_global_property(name, value)


def show_in_junit(config: pytest.Config, report: pytest.TestReport) -> None:
    """Put them into the `system-out` of the passed test case, if a JUnit file is written."""
    xml = config.stash.get(xml_key, None)
    text = "\n".join(content for title, content in report.sections if title == f"Captured {UNHEEDED} {report.when}")
    if xml is None or not text:
        return
    element = Element("system-out")
    element.text = bin_xml_escape(text)
    xml.node_reporter(report).append(element)
