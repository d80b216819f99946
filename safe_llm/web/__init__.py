"""The web layer: who is calling, proved by a token; and what a web application answers where a call is refused."""

from .asgi import SafeLLMMiddleware
from .fastapi import require_feature
from .jwt import JWTVerifier
from .wsgi import SafeLLMWSGIMiddleware

__all__ = ["JWTVerifier", "SafeLLMMiddleware", "SafeLLMWSGIMiddleware", "require_feature"]
