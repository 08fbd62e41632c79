"""The packed engine: many adapters trained at once over one frozen base."""
