"""What is told of every state that keeps a run from reusing, by when it shows."""
