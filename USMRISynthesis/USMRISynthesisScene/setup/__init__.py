"""What stands by from the start, and what is installed on demand."""
