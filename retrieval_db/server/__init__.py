"""The embedded PostgreSQL: its programs, its data directories, its settings, and the server."""

from .embedded import Server, ServerStatus, default_home

__all__ = [
    "Server",
    "ServerStatus",
    "default_home",
]
