// Programmatic dependent launch: blocks of the next kernel of the stream may start while this one still runs, and what
// they do before they wait for it (barriers, weights to shared memory) costs no time. After the wait its results are
// visible. Before compute capability 9.0 kernels follow each other.

__device__ __forceinline__ void begin_with_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

