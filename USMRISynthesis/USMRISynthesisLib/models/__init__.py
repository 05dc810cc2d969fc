"""Model folders: manifests, verified loading, devices and parallel execution."""
