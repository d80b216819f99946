"""The checks of what goes in and what comes out."""

from __future__ import annotations

from .patterns import Pattern

__all__ = ["Pattern"]
