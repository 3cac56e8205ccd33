"""Text (paper 2.1): files and public sources become documents, documents become a corpus."""
