"""The audit as one page that opens offline: everything is in the file, and its policy forbids every request."""

from __future__ import annotations

from ckptaudit.report.html.page import render_html, write_html

__all__ = ["render_html", "write_html"]
