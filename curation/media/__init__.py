"""Packets and pixels: copying, encoding and checking clips."""
