"""Captions of kept clips (planned)."""
