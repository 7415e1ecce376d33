"""What a stage leaves on its storage: products, checkpoints, locks; each survives a kill at any instruction."""
