"""Locks: who waits, and who is at the root of it."""
