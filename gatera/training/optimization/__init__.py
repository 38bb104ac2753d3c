"""Making a trial's weights: the steps, their loss and rates, and the checkpoints.

`trainer` does it from start to end, `module` one step; `losses` is what a step minimizes, the loss
on tokens and λ times the gates' entropy. What the weights are worth is `evaluation`'s.
"""
