"""What weights are worth: answers to test items, their score, likelihoods, and what gates do.

`scorer` does it from start to end; training validates by the same functions.
"""
