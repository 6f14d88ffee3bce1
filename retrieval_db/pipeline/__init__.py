"""From photos to stored codes: reading, encoding and writing beside each other."""

from .encoding import EncodeReport, encode_all, encode_batches, encode_items, extract_features
from .indexing import IndexReport
from .profiling import Profile, Stage

__all__ = [
    "EncodeReport",
    "IndexReport",
    "Profile",
    "Stage",
    "encode_all",
    "encode_batches",
    "encode_items",
    "extract_features",
]
