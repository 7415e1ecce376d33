"""Jobs on a cluster, through kubectl: the user's own login, contexts and rights."""

PLUGIN = "kubectl rlhf"
"""What the command is called, and the typer context's object, when kubectl runs it."""
