// Float16 by inline assembly: NVRTC has no cuda_fp16.h. Kept apart from the kernels of both ends, so that these also
// compile as plain C++.
//
// Constraints: compute capability 5.3 or newer. The emulator of the tests has the same functions in their place.
// Checked by: python -m runtime.cuda_engine.selfcheck --only pillars

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
