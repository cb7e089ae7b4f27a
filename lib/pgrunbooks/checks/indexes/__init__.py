"""Checks on indexes: those that are broken, those that nothing needs, and those that are missing."""
