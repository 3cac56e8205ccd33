"""One setting for all tests: properties try the same examples every time, with no clock."""

from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")
