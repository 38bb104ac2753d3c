"""Making a trial's weights: the steps, their loss and rates, and the checkpoints.

`trainer` does it from start to end. What the weights are worth is `evaluation`'s.
"""
