"""Training of the generator (Jiao 2019/2020, with supervised pairs)."""
