"""What the alignments of volumes and frames share: confidence and resampling at several resolutions."""
