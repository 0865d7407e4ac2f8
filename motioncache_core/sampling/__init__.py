"""What is sampled: a run and its calls; diffusion forcing, where chunks denoise in a row."""
