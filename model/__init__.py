"""Networks and diffusion arithmetic; imports nothing else of ours (planned)."""
