"""The DeepSpeed trainer (planned)."""
