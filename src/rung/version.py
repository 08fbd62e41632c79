"""The version of Rung, in its one place."""

__version__ = "0.2.0"
