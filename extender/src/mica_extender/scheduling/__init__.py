"""The verbs of a kube-scheduler extender: what they mean, how they travel, and the bind that commits a decision."""
