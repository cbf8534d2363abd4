"""The operator's choices as code: one file, one question. Pure."""
