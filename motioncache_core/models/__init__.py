"""What the engine has to know of a model family, and which families there are."""
