"""What a stage computes, and the runtime under it."""
