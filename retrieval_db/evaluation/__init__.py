"""How good the answers are: tie-aware metrics, over arrays or over the live table."""

from .health import Health
from .quality import Evaluation, by_cosine, by_prediction, evaluate
from .query_sets import QuerySet
from .stages import POOLS, StageScore
from .ties import Ties

__all__ = [
    "POOLS",
    "Evaluation",
    "Health",
    "QuerySet",
    "StageScore",
    "Ties",
    "by_cosine",
    "by_prediction",
    "evaluate",
]
