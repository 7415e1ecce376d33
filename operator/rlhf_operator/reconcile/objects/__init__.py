"""The objects of an attempt, and what they are made of."""
