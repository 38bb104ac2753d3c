"""Reading what gates do: recording them in a pass, and statistics over tokens.

Nothing here changes what a layer computes. A layer hands over the logits of its gates; how gates
work is in `gates`.
"""
