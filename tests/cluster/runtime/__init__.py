"""The operator's runtime against real API servers."""
