"""The report's page about captions."""
