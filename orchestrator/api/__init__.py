"""HTTP: what a daemon tells, and what a person may tell it."""
