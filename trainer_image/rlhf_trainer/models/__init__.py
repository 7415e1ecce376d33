"""Models: loading, scorers, frozen layers, adapters, saving."""
