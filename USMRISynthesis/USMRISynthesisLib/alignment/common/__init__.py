"""Shared by the alignments of volumes and frames: U-Net, confidence, and resampling at several resolutions."""
