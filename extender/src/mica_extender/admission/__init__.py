"""Admission of pods that ask for slices: translated into one form, or refused in words that say what to change.

The same rules run twice, when the pod is changed and again when every other webhook has had its turn.
"""
