"""What training costs before it is done: memory and time, measured here or estimated for a device."""
