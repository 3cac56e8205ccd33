"""De-duplication: of texts that say the same, one is kept."""
