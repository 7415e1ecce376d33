"""What any operator needs, and nothing of RLHF: client, reflector, work queue, leader election, events, metrics."""
