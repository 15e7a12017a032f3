"""What the policy is asked: problems, the lab that makes them, prompt templates."""
