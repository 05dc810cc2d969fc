"""Training on a laboratory's own folders."""
