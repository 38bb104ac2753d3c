"""Which labels the loss on tokens counts, and how many logits it holds at once."""

IGNORED = -100  # label of tokens without loss, as transformers and torch have it

# In values, of all tokens and the whole vocabulary: from more on, the loss is computed in parts.
LOGITS_AT_ONCE = 2**24
