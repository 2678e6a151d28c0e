// Inline assembly that NVRTC has no header for: float16, and what a cache is to keep. Apart from the kernels of both ends and
// of the tiles' lists, so that these also compile as plain C++.
//
// Constraints: compute capability 5.3 or newer; nothing is kept before 8.0. The emulator of the tests has the same functions in their place.
// Checked by: python -m runtime.cuda_engine.selfcheck --only pillars, skipping

// Bits of the nearest float16, ties to even, infinite beyond its range.
__device__ __forceinline__ unsigned int half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ float half_value(unsigned int bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"((unsigned short)bits));
    return value;
}

// Writes a word, and adds to a number, that the L2 cache gives up last: what later kernels of a frame wait for, while their
// maps run through it.
__device__ __forceinline__ void store_kept(unsigned int* target, unsigned int value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile(
        "{\n"
        ".reg .b64 kept;\n"
        "createpolicy.fractional.L2::evict_last.b64 kept, 1.0;\n"
        "st.global.L2::cache_hint.u32 [%0], %1, kept;\n"
        "}\n" ::"l"(target), "r"(value) : "memory");
#else
    *target = value;
#endif
}

__device__ __forceinline__ int add_kept(int* target, int value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    int old;
    asm volatile(
        "{\n"
        ".reg .b64 kept;\n"
        "createpolicy.fractional.L2::evict_last.b64 kept, 1.0;\n"
        "atom.global.add.L2::cache_hint.s32 %0, [%1], %2, kept;\n"
        "}\n" : "=r"(old) : "l"(target), "r"(value) : "memory");
    return old;
#else
    return atomicAdd(target, value);
#endif
}
