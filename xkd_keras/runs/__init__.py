"""A run from its Config to its directory.

building makes a cohort of a Config; training is the loop; result, what remains after the last
epoch; evaluation, directory, checkpoint and callbacks serve them. See README.md.
"""
