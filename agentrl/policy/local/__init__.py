"""The embedded engine: a small Qwen3 that samples for many sessions at once, deterministically.

policy    the asyncio front         engine    one step over all requests in flight
network   the forward pass          kernels   products that no batch can change
slots     who holds which cache     jobs      what a request still needs
sampling  logits -> tokens          weights   checkpoint or live module -> fused matrices
"""

from agentrl.policy.local.policy import LocalPolicy

__all__ = ["LocalPolicy"]
