"""The devices of a run, on one machine or several, and how they agree. Imports TensorFlow.

cluster makes the strategy; collectives, what all workers must do together.
"""
