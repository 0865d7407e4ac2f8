"""One sampling run: the session, the caches of its clip or windows, the hooks of a call."""
