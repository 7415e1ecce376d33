"""Real jobs on a real node: the installed chart, this project's images, pods that train."""
