"""The child process that runs the networks, and its client. `python -m USMRISynthesisLib.worker` starts it."""
