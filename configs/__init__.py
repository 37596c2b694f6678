"""The shipped YAML: one choice per file, in the groups study, data, budget, recipe, engine and tracking.

Finished tunings that a study can cite with `recipe.tuning` lie in `tuning`.
"""
