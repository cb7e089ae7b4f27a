"""Meta: what limits the other checks in what they can tell."""
