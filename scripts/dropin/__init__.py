"""Runs the SDK's own test suite with our client classes in place of the SDK's: ``python -m scripts.dropin``."""
