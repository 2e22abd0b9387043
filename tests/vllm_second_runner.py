"""Imported before vLLM, makes its second model runner run on the CPU: Triton's interpreter stands in for a compiler."""

import os
import types

os.environ.update(TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1")

import triton.backends
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

# vLLM takes Triton on the CPU for absent unless it has a backend of that name. Interpreted kernels ask it for nothing.
triton.backends.backends["cpu"] = types.SimpleNamespace(driver=types.SimpleNamespace(is_active=lambda: True), compiler=None)

# The interpreter wants booleans of a mask; vLLM's kernel of ngram drafts has integers, which compilers take.
load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
InterpreterBuilder.create_masked_load = lambda self, pointers, mask, *others: load(self, pointers, boolean(mask), *others)
InterpreterBuilder.create_masked_store = lambda self, pointers, values, mask, *others: store(self, pointers, values, boolean(mask), *others)


def boolean(mask):
    return TensorHandle(mask.data.astype(bool), mask.dtype)
