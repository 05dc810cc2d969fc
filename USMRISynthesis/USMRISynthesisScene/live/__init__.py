"""Live synthesis in the scene: a volume that updates, and its MR-like image beside it."""
