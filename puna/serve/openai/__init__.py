"""OpenAI's routes, with the fields that its clients send and those that local servers add."""
