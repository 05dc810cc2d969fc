"""Cases for training and evaluation, from simulations, frames, scans and MR stacks."""
