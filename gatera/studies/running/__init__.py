"""A run, start to end: the `supervisor` plans, keeps workers going, and writes the report.

It puts the other folders to work and does nothing of theirs itself.
"""
