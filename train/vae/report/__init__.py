"""The report's page about a VAE that is trained."""
