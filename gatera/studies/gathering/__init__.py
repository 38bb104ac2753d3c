"""From the store to what a report is made of: the record of a study, and the answers of its rows.

`gather` makes the record, `finished` reads what a finished trial left, `answers` the texts that
models wrote beside what they were asked.
"""
