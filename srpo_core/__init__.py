"""The algorithm: problems, rollouts, rewards, policy. Needs torch and transformers, nothing of the pipeline."""
