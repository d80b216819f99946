"""The web layer: who is calling, proved by a token."""

from .jwt import JWTVerifier as JWTVerifier

__all__ = ["JWTVerifier"]
