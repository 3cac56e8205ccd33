"""The raw files of public sources, from where they are published to a folder."""
