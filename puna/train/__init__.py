"""Pretraining: the recipe of paper 2.3, the efficiency of 2.4, and the report of a run."""
