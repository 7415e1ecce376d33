"""Rule-based rewards (RBR, arXiv 2411.01111): policies, the grader, classes, fitted weights, and their use."""
