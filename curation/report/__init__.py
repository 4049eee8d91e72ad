"""The report's page about curation."""
