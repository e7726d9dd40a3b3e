"""The two towers, and the networks that adaptation builds on them (paper sections 2.3 to 2.6)."""
