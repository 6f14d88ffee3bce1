"""Nearest neighbours of hash codes: one query or many, in the database or in memory."""

from .batch import BatchResult, search_batch
from .memory import MemorySource
from .query import (
    Query,
    QueryLike,
    as_query,
    path_of,
    query_by_id,
    query_by_path,
    query_photo,
    vector_text,
)
from .single import Hit, Metric, SearchResult, SearchSource, Stage, choose_stage, search

__all__ = [
    "BatchResult",
    "Hit",
    "MemorySource",
    "Metric",
    "Query",
    "QueryLike",
    "SearchResult",
    "SearchSource",
    "Stage",
    "as_query",
    "choose_stage",
    "path_of",
    "query_by_id",
    "query_by_path",
    "query_photo",
    "search",
    "search_batch",
    "vector_text",
]
