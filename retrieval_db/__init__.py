"""Image retrieval inside PostgreSQL: binary hash codes, exact and certified Hamming search."""

from .client import Database, connect
from .encoders import Encoder, StoredEncoder
from .errors import RetrievalError
from .exporting import ExportReport, Restriction
from .interchange import CodeSet, read_npz, write_npz
from .loading import LoadReport
from .pipeline import IndexReport
from .search import BatchResult, Hit, MemorySource, Query, SearchResult, query_photo

__all__ = [
    "BatchResult",
    "CodeSet",
    "Database",
    "Encoder",
    "ExportReport",
    "Hit",
    "IndexReport",
    "LoadReport",
    "MemorySource",
    "Query",
    "Restriction",
    "RetrievalError",
    "SearchResult",
    "StoredEncoder",
    "connect",
    "query_photo",
    "read_npz",
    "write_npz",
]

__version__ = "0.1.0"
