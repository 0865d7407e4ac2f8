"""When to compute what: distance, motion weights, budget, the decision of a chunk and of a clip."""
