"""Carrying the model's answers: whole evaluations of any model, without a hook in it."""
