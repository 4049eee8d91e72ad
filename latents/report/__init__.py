"""The report's page about latents."""
