"""Prompt files: `NAME-VERSION.jinja`. A prompt that changes gets a new number, and its captions become a new version."""
