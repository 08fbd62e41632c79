"""Rows of text in, batches of tokens out."""
