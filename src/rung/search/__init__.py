"""Judgement: which candidates to try, and what their measurements show. Pure Python, no tensors, no files."""
