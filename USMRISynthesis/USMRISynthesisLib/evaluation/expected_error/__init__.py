"""The expected error: fitted on simulated heads, tested on others."""
