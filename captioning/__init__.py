"""Captions for clips: asked of models, brought along, or made of what curation measured."""
