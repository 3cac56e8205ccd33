"""Ollama's routes, so that its clients find here what they ask there for."""
