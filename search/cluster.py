"""The former place of `search.execution.cluster`, for scripts of version 0.1.0."""

from search.execution.cluster import joined


__all__ = ["joined"]
