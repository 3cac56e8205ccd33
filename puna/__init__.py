"""Puna: the whole LLaMA system in one package, from public text to the person who asked."""

__version__ = "0.1.0"
