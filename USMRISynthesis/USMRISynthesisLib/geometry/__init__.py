"""Canonical space, similarity transforms, ellipses and planes. Points are RAS in mm unless a name says otherwise."""
