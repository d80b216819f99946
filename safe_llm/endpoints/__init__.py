"""The API surfaces that are guarded, one file each, and the classification of every other route.

An endpoint knows how to read a request and an answer of one surface. A new surface is one file here and one line in
`ENDPOINTS`.
"""

from __future__ import annotations

from .base import Endpoint, Unguarded
from .chat import CHAT
from .routes import Route, classify

ENDPOINTS: dict[str, Endpoint] = {endpoint.path: endpoint for endpoint in (CHAT,)}
"""Path to endpoint."""

__all__ = ["ENDPOINTS", "Endpoint", "Route", "Unguarded", "classify"]
