"""Whether a job may run here, and with what."""
