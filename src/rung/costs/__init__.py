"""What training will cost, in memory and time: measured here or estimated for a device."""
