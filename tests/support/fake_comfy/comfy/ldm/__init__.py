"""The host's networks, of which there is only attention."""
