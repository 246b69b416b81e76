"""Decisions: pure functions of values."""
