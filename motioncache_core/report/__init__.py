"""What happened in a run, and from it text, JSON, timeline and motion map; comparing videos."""
