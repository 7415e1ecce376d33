"""One policy a file: when something is tried again, ends, or is cleaned up."""
