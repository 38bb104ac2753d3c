"""What numbers mean: paired differences, the bootstrap, agreement with a paper, what looks wrong.

Numbers in, numbers and verdicts out; how they are written down is `forms`'.
"""
