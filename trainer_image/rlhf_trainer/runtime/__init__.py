"""The processes of a stage: launcher, supervisor of ranks, one rank; how they end."""
