"""Rows that are not independent: they contain one another, or ask and answer the same."""
