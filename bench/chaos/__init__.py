"""Runs that are killed with SIGKILL at random moments, resumed, and compared with one that was not."""
