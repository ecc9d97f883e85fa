"""What pytest's JUnit file would not show: what was judged, and words of broken claims that close no gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from xml.etree.ElementTree import Element

import pytest
from _pytest.junitxml import bin_xml_escape, xml_key

from ckptaudit.plugin.items import UNHEEDED


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
