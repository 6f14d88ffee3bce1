"""Answers as pictures: a contact sheet (PNG) and a page (HTML)."""

from .answer import Answer
from .page import write_page
from .sheet import write_sheet

__all__ = ["Answer", "write_page", "write_sheet"]
