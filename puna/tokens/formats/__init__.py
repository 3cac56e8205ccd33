"""Tokenizer files: one module for each format, read into a Vocabulary and written from one."""
