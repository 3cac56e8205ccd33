"""Weights and a prompt -> text for the person who asked."""
