"""One file per verb: `configure(parser)` declares its arguments, `run(arguments, console)` does it."""
