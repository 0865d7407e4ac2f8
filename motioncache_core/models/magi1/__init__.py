"""MAGI-1: its network, and what is known of its checkpoints."""
