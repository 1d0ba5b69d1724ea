"""The last tier: answers whatever is left."""
