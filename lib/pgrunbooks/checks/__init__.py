"""The checks, one file each, found by discovery; checks.csv names them all."""
