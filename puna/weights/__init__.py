"""Every file format of weights behind one name map: Meta's names (no torch needed)."""
