"""What is known of an ultrasound image before any network: its fan, its intensities, whether it is admitted."""
