"""Growth: ranges of numbers and partitions that run out."""
