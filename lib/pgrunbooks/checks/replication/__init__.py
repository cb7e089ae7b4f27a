"""Replication: standbys and subscriptions that fall behind, stand still or fail."""
