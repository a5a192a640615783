"""The devices of a run, on one machine or several, and how they agree.

cluster makes the strategy; collectives, what all workers must do together: these two import
TensorFlow. machine and slurm, which say what there is, and start_up do without it.
"""
