// Programmatic dependent launch: blocks of the next kernel of the stream may start while this one still runs, and what
// they do before they wait for it (barriers, weights to shared memory) costs no time. After the wait its results are
// visible. Before compute capability 9.0 kernels follow each other.
//
// Constraints: every block of a kernel that may be launched with `overlap` waits for the one before it ahead of reading or writing
// what that one wrote or reads; a block that does neither may end at once, but one at least waits: what is done when a kernel
// ends is then all that came before it. `begin_with_next` orders nothing.
// Checked by: python -m runtime.cuda_engine.selfcheck --only frames (one frame after another, without a pause)

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

