"""What the nodes draw: timeline, motion map, scrubber, comparison."""
