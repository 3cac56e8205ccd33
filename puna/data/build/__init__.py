"""The build: a recipe's sources, through its stages, to shards of tokens and their mixture."""
