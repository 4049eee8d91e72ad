"""CogVideoX's networks and diffusion arithmetic (Yang et al., arXiv 2408.06072); imports nothing else of ours.

    transformer.py                        the expert transformer, made of attention.py and positions.py
    vae.py                                the causal 3D VAE, made of vae_blocks.py and vae_tiling.py
    diffusion.py, timesteps.py            noise schedule, predictions and their conversions; which timesteps to train on
    noise.py, guidance.py, samplers.py, sample.py   from noise to latents, to frames
    perceptual.py, discriminator.py, vae_loss.py   what the VAE is trained with
    pretrained.py, lora.py                diffusers' folders and files, read and written
    flops.py                              what a step costs

Parameter names are diffusers' own, so no weight is ever converted. No file knows of ranks' communication: parallelism
is the trainer's.
"""
