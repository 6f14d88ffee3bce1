"""Answers as pictures: a contact sheet (PNG) and pages (HTML); and curves of evaluations."""

from .answer import Answer
from .curves import write_pools, write_rankings
from .duplicates import write_duplicates
from .page import write_page
from .sheet import write_sheet

__all__ = [
    "Answer",
    "write_duplicates",
    "write_page",
    "write_pools",
    "write_rankings",
    "write_sheet",
]
