"""Imported before vLLM, makes its second model runner run on the CPU: Triton's interpreter stands in for a compiler."""

import os
import types

os.environ.update(TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1")

import triton.backends

# vLLM takes Triton on the CPU for absent unless it has a backend of that name. Interpreted kernels ask it for nothing.
triton.backends.backends["cpu"] = types.SimpleNamespace(driver=types.SimpleNamespace(is_active=lambda: True), compiler=None)
