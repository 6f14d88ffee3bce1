"""Photos: where they lie, what is in the files, and what they are labelled."""

from .files import (
    content,
    decode,
    exists,
    find,
    is_gone,
    part,
    printable,
    sha256,
    suffixes,
)
from .labels import FOLDER, Labels, label_reader, stored_label_reader
from .sources import Item, Shard, Sources

__all__ = [
    "FOLDER",
    "Item",
    "Labels",
    "Shard",
    "Sources",
    "content",
    "decode",
    "exists",
    "find",
    "is_gone",
    "label_reader",
    "part",
    "printable",
    "sha256",
    "stored_label_reader",
    "suffixes",
]
