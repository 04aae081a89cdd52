"""Which port to the kernel a process gets: the plain one, or one that traces its steps."""

from palace.kernel.kernel import Kernel


def kernel_for(trace: str) -> Kernel:
    """Return a process's port; one that writes a trace where `trace` names a file."""
    if not trace:
        return Kernel()
    from palace.kernel.tracing import TracingKernel  # json is not paid for without a trace

    return TracingKernel(trace)
