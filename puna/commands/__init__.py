"""One file per verb: `configure(parser)` declares its arguments, `run` does the work."""
