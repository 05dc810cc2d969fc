"""A folder of images at once, resumable."""
