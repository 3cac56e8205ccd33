"""How good a model is on text it has not seen (paper 3, 5). Importing this imports nothing."""
