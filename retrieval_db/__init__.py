"""Image retrieval inside PostgreSQL: binary hash codes, exact and certified Hamming search."""

from .batch import BatchResult
from .client import Database, connect, query_photo
from .encoders import Encoder, StoredEncoder
from .errors import RetrievalError
from .exporting import ExportReport, Restriction
from .indexing import IndexReport
from .interchange import CodeSet, read_npz, write_npz
from .loading import LoadReport
from .memory import MemorySource
from .search import Hit, Query, SearchResult

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
