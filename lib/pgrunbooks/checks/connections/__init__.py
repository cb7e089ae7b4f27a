"""Connections: slots, transactions left open, statements that run too long."""
