"""Tables of a curated dataset: the parts they are made of, how they are published, counted, explained and taken down."""
