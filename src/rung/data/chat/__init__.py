"""Conversations: their turns and fields, how a chat template renders them, and their tokens."""
