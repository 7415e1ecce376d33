"""PPO and PPO-Lagrangian: rollouts, scores, multipliers, advantages, guards, the update."""
