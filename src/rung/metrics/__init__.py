"""Metrics of generated texts: how texts are scored, and what the scores of a study show."""
