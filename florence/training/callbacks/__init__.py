"""What happens around a training step: each callback one concern, run in the order given."""
