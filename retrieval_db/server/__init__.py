"""The embedded PostgreSQL: its programs, its home folder, its data directories, the server."""

from .embedded import Server, ServerStatus
from .home import default_home

__all__ = ["Server", "ServerStatus", "default_home"]
