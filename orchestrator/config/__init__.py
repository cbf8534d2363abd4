"""The operator's YAML: read with line numbers, checked in one place, turned into domain values."""
