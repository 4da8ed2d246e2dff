"""Training that can be stopped at any instant and resumed exactly."""
