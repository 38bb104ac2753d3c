"""Pages for a browser: a report to explore, items and gates to look at; one file each, and a cell.

A page needs nothing beside itself: no network, no other file. `rendering` turns a template of
`templates/` into one. What the numbers are is `reports.tables`', what a sentence says `forms`'.
"""
