"""The engine behind HTTP: OpenAI's and Ollama's routes, metrics, and the page."""
