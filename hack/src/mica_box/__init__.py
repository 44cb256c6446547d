"""The box: a real Kubernetes control plane and node inside one namespaced process, its binaries and its images.

Development and tests only: nothing here is part of the installed product.
"""
