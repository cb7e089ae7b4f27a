"""WAL: is it archived, who keeps it, and does it come in faster than planned?"""
