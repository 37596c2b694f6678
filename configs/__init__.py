"""The shipped YAML: one choice per file, in the groups study, data, budget, recipe, engine and tracking."""
