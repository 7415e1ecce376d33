"""What a stage computes, and the small runtime under it."""
