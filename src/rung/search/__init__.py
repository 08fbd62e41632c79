"""The search: which candidates to train next, and what their measurements show.

Everything here is a pure function of its arguments: no tensors, no files, no clock.
"""
