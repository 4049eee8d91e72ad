"""Tables of a curated dataset: their parts, how they are published, counted, explained and taken down."""
