"""PostgreSQL runbooks that run."""
