"""The web layer: middlewares that prove who is calling, and answer for what is refused below."""

from .asgi import SafeLLMMiddleware
from .fastapi import require_feature
from .wsgi import SafeLLMWSGIMiddleware

__all__ = ["SafeLLMMiddleware", "SafeLLMWSGIMiddleware", "require_feature"]
