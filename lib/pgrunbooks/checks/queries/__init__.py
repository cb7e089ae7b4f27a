"""Queries: what statements wait for, spill and read, and how they end."""
