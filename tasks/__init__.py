"""The slices: one folder per vendor, the same files in each; no slice knows another."""
