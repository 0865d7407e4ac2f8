"""One sampling run of a network that is evaluated chunk by chunk, each against stored keys."""
