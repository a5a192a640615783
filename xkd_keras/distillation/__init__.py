"""The method: several networks at once, each taught by their ensemble. No files, no flags.

cohort is the keras.Model; teachers, terms, losses, schedules and methods are what it is made of;
shares, mastery, similar, exits, views, members, batches, metrics, optimizers, nonfinite serve it.
keras_side is what any Keras model can do. See README.md.
"""
