"""The method: several networks at once, each taught by their ensemble. No files, no flags.

cohort is the keras.Model; teachers, terms, losses, schedules and methods are what it is made of;
keras_side is what any Keras model can do. The others serve these; README.md lists them all.
"""
