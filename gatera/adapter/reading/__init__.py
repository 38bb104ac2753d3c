"""Reading what gates do: which tokens of a pass are real, recording, and statistics over tokens.

Nothing here changes what a layer computes. A layer hands over the logits of its gates; how gates
work is in `gates`.
"""
