"""Near-duplicates: similar pairs of clips by their embeddings, and which clip of a group stays."""
