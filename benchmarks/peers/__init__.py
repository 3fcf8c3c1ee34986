"""What planrelay is measured against."""
