"""What `rung inspect`, `rung plan` and `rung data` compute; `rung.report` shows it."""
