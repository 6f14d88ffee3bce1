"""Codes in files: what is read, what is written, and how a format is recognised."""

from .codeset import MAX_FEATURE, MAX_FEATURE_DIM, CodeSet, joined
from .csv_table import csv_writer
from .files import replacing, writing
from .npz import ARTIFACT_KEY, read_npz
from .npz_writer import npz_writer, write_npz
from .parquet import parquet_writer
from .recognise import SOURCES, open_source, read_codes, recognised
from .sources import Held, Labelled, Settings, Source

__all__ = [
    "ARTIFACT_KEY",
    "MAX_FEATURE",
    "MAX_FEATURE_DIM",
    "SOURCES",
    "CodeSet",
    "Held",
    "Labelled",
    "Settings",
    "Source",
    "csv_writer",
    "joined",
    "npz_writer",
    "open_source",
    "parquet_writer",
    "read_codes",
    "read_npz",
    "recognised",
    "replacing",
    "write_npz",
    "writing",
]
