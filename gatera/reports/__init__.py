"""Reports: plans and results in, tables and figures out; nothing here knows of a store.

`records` is what comes in, `tables` the numbers, `judging` what they mean: the verdicts on rows
beside each other, and beside the `published` ones; `forms` is how they look, `write` makes the
files.
"""
