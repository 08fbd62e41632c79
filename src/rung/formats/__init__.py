"""How people write amounts, numbers and YAML, and how that is read."""
