"""Environment variables through which the script speaks to the plugin in pytest's process."""

USE_OURS = "DROPIN_USE_OURS"
"""Set: our client classes stand in for the SDK's."""
RESULTS = "DROPIN_RESULTS"
"""The file for each test's outcome."""
BASE_URL = "TEST_API_BASE_URL"
"""The SDK's own: where its tests expect a mock of the API."""
