"""How people write amounts, numbers and YAML, and how Rung reads that."""
