"""Reports: plans and results in, tables and figures out; nothing here knows of a store.

`records` is what comes in, `tables` the numbers, `judging` what they mean beside each other and
beside the `published` ones, `forms` how they look; `write` makes the files.
"""
