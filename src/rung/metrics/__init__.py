"""Metrics of generated texts: how a text is scored, and what the scores of a study say."""
