"""Hypothesis, without a clock and without a folder of its own."""

from hypothesis import settings

settings.register_profile("house", deadline=None, database=None)
settings.load_profile("house")
