"""Where everything that was seen is kept: one SQLite file."""

from understudy.store.admin import Due
from understudy.store.query import CompletionSummary, EpisodeQuery, EpisodeSummary
from understudy.store.schema import StoreError
from understudy.store.sqlite import SQLiteStore

__all__ = [
    "CompletionSummary",
    "Due",
    "EpisodeQuery",
    "EpisodeSummary",
    "SQLiteStore",
    "StoreError",
]
