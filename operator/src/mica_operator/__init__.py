"""The operator: InferenceServices become Deployments and Services on slices, and pools report what is taken.

``app`` wires the process, ``handlers`` is kopf's side, ``loop`` is the level-triggered loop of one object, ``core`` decides and
``cluster`` carries decisions out.
"""
