"""What people see of a study. It reads, and never computes."""
