"""Pydantic models of the custom resources; the CRDs are generated from them by ``mica_api.crds``."""

from mica_api.models.inference_service import InferenceService
from mica_api.models.vgpu_node import VGPUNode
from mica_api.models.vgpu_pool import VGPUPool

__all__ = ["InferenceService", "VGPUNode", "VGPUPool"]
