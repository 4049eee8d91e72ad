"""Prompt files: `NAME-VERSION.jinja`. A prompt that changes gets a new number; its captions are a new version."""
