"""TOKENS (paper 2.1): text becomes numbers and numbers become batches.

Read in this order: tokenizer (text <-> ids), training (a tokenizer from text), shards (documents
as token files), permutation (the order of an epoch), loader (sequences for the trainer).
"""
