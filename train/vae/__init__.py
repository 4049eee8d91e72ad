"""Training a VAE of one's own: `rushes train-vae`."""
