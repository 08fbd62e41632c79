"""Execution: heats in, measurements out."""
