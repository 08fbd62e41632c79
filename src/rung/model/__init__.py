"""The frozen base model: loading it, and naming its parts."""
