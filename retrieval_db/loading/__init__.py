"""Codes into the tables: by binary COPY, in whole batches, over several connections at once."""

from .bulk import BATCH, LoadReport, Survey, finish, load, survey
from .writer import Writer

__all__ = ["BATCH", "LoadReport", "Survey", "Writer", "finish", "load", "survey"]
