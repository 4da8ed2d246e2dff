"""Runs that are stopped, killed and resumed; a package, so that it is not mistaken for the benchmark of that name."""
