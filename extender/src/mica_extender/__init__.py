"""Where slices go: admission of pods that ask for them, placement, and the one write that binds a pod to its cards.

Not a scheduler: a stock kube-scheduler runs the queue and asks here. Not enforcement: the node agent has the last word.
"""
