"""Which documents are good: rules, a language model's perplexity, a classifier."""
