"""Clips and captions to latent shards (planned)."""
