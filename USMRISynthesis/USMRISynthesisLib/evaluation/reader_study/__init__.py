"""A reader study: one page that shows images blinded, and what its readers' files say together."""
