"""A study run under random faults, again and again, and held against the same study undisturbed."""
