"""Diffusion forcing: chunks of latent frames that denoise together, each behind the one before."""
