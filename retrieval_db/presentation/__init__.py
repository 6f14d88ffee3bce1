"""Answers as pictures: a contact sheet (PNG) and pages (HTML)."""

from .answer import Answer
from .duplicates import write_duplicates
from .page import write_page
from .sheet import write_sheet

__all__ = ["Answer", "write_duplicates", "write_page", "write_sheet"]
