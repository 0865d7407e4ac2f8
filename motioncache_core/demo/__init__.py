"""The shipped model, its scenes and samplers."""
