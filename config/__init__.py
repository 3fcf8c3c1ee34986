"""The settings: what an operator may say, as frozen, validated values. Knows nobody else."""
