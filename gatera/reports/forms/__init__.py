"""What a table looks like: markdown, LaTeX, CSV and JSON, figures, and the notes beneath.

Every form is made from the same numbers (`reports.tables`); none computes one.
"""
