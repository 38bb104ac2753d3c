"""What numbers mean: paired differences, the bootstrap, agreement with a paper, what looks wrong.

Numbers in, numbers and verdicts out: `comparison` says whether a difference is resolved, from the
statistics of `paired` and `bootstrap`. How they are written down is `forms`'.
"""
