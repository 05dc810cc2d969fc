"""Small made-up heads, frames, stacks and data sets that the tests share."""
