"""One file a command. Modules import typer and the standard library at most: the rest when the command runs."""
