"""The web layer: a token proves who is calling, middlewares ask for it, and answer for what is refused below."""

from .asgi import SafeLLMMiddleware
from .fastapi import require_feature
from .jwt import JWTVerifier
from .wsgi import SafeLLMWSGIMiddleware

__all__ = ["JWTVerifier", "SafeLLMMiddleware", "SafeLLMWSGIMiddleware", "require_feature"]
