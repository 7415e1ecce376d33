"""What the objects of an attempt say, and why an attempt ended. Reads raw objects, changes nothing."""
