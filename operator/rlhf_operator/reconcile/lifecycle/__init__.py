"""What becomes of attempts: they start, are followed, are stopped, and end."""
