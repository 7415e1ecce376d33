"""Whole-rollout sampling with eviction, and log-probabilities of answers."""
