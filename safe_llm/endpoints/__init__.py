"""The API surfaces that are guarded, one file each, and the classification of every other route.

An endpoint knows how to read a request and an answer of one surface. A new surface is one file here and one line in
`ENDPOINTS`.
"""

from __future__ import annotations

from .audio import SPEECH, TRANSCRIPTIONS, TRANSLATIONS
from .base import Endpoint, Unguarded
from .chat import CHAT
from .completions import COMPLETIONS
from .embeddings import EMBEDDINGS
from .images import IMAGE_EDITS, IMAGE_VARIATIONS, IMAGES
from .responses import COMPACTION, RESPONSES
from .routes import Route, classify, deployment_of

ENDPOINTS: dict[str, Endpoint] = {
    endpoint.path: endpoint
    for endpoint in (
        *(CHAT, RESPONSES, COMPACTION, EMBEDDINGS, COMPLETIONS),
        *(IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS, TRANSCRIPTIONS, TRANSLATIONS, SPEECH),
    )
}
"""Path to endpoint."""

__all__ = ["ENDPOINTS", "Endpoint", "Route", "Unguarded", "classify", "deployment_of"]
