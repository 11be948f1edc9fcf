"""The differentiable engine (DARTS and its family) over any space that gives a supernet."""

from naslab.nas.differentiable.search import SearchEpoch, SearchResult, search, searchable

__all__ = ["SearchEpoch", "SearchResult", "search", "searchable"]
