"""What pytest's JUnit file would not show: the words of a broken claim that does not close the gate."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import pytest
from _pytest.junitxml import bin_xml_escape, xml_key

from ckptaudit.plugin.items import UNHEEDED


def show_in_junit(config: pytest.Config, report: pytest.TestReport) -> None:
    """Put them into the `system-out` of the passed test case, if a JUnit file is written."""
    xml = config.stash.get(xml_key, None)
    text = "\n".join(content for title, content in report.sections if title == f"Captured {UNHEEDED} {report.when}")
    if xml is None or not text:
        return
    element = Element("system-out")
    element.text = bin_xml_escape(text)
    xml.node_reporter(report).append(element)
