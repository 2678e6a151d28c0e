// How candidates are ranked: keys of logits, sums over a block, the k-th largest and a sort.
//
// A logit's key is an unsigned number in the same order, 0 for NaN; both zeros have one key. A candidate is the key in the
// high word and the complement of its index in the low one: candidates are distinct, and descending order is the ranking.
//
// Compile-time parameters and constraints: those of decode.cu, which stands behind this file; whole warps, and all threads
// of a block take part in what has "block" in its name.
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only detections     on a GPU, against runtime.decode
//   python -m pytest tests/runtime/test_cuda_engine_ends.py       the same without one

typedef unsigned int u32;
typedef unsigned long long u64;

#define ALL 0xffffffffu

__device__ __forceinline__ u32 key_of(float logit) {
    const u32 bits = __float_as_uint(logit);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0;
    if ((bits & 0x7fffffffu) == 0) return 0x80000000u;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float logit_of(u32 key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ bool is_candidate(u32 key) { return key >= KEY_LIMIT && KEY_LIMIT != KEY_NONE; }

// Rises with the logit, as rounding does; the ends take what lies beyond.
__device__ __forceinline__ u32 bin_of(u32 key) {
    const float position = (logit_of(key) - BIN_START) * BINS_PER_LOGIT;
    return (u32)fminf(fmaxf(position, 0.0f), (float)(BINS - 1));
}

// Inclusive sum over the lanes.
__device__ __forceinline__ u32 warp_scan(u32 value, int lane) {
    for (int step = 1; step < 32; step <<= 1) {
        const u32 other = __shfl_up_sync(ALL, value, step);
        if (lane >= step) value += other;
    }
    return value;
}

// Exclusive sum over the block's threads; `total` becomes the whole sum. `partial` has a word for each warp.
__device__ __forceinline__ u32 block_scan(u32 value, u32* partial, u32& total) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const u32 inclusive = warp_scan(value, lane);
    if (lane == 31) partial[warp] = inclusive;
    __syncthreads();
    u32 before = inclusive - value;
    total = 0;
    for (int w = 0; w < blockDim.x / 32; ++w) {
        if (w < warp) before += partial[w];
        total += partial[w];
    }
    __syncthreads();
    return before;
}

// The TOP_K-th largest of more than TOP_K distinct candidates, by eight bits at a time.
__device__ __forceinline__ u64 kth_largest(
    const u64* list, int count, u32* bins, u32* partial, u64* shared_prefix, u32* shared_need)
{
    u64 prefix = 0, mask = 0;
    u32 need = TOP_K, total;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int bin = threadIdx.x; bin < 256; bin += FINISH_THREADS) bins[bin] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += FINISH_THREADS) {
            const u64 candidate = list[i];
            if ((candidate & mask) == prefix) atomicAdd(&bins[(u32)(candidate >> shift) & 255], 1u);
        }
        __syncthreads();
        // Digits from the top; the one in which the k-th candidate lies is the next of its digits.
        const u32 digit = 255 - threadIdx.x, size = threadIdx.x < 256 ? bins[digit] : 0;
        const u32 above = block_scan(size, partial, total);
        if (size && above < need && above + size >= need) {
            *shared_prefix = prefix | ((u64)digit << shift);
            *shared_need = need - above;
        }
        __syncthreads();
        prefix = *shared_prefix;
        need = *shared_need;
        mask |= 255ull << shift;
    }
    return prefix;
}

// Bitonic sort of `size` (a power of two, 32 or more) elements in shared memory, descending. Exchanges within 32 elements
// go through the lanes of a warp, so that the block meets only for those that reach further.
__device__ __forceinline__ void sort_block(u64* list, int size) {
    const int lane = threadIdx.x & 31;
    for (int k = 32; k <= size; k <<= 1) {
        for (int j = k >> 1; j >= 32; j >>= 1) {
            for (int pair = threadIdx.x; pair < size / 2; pair += FINISH_THREADS) {
                const int low = (pair & ~(j - 1)) * 2 + (pair & (j - 1)), high = low + j;
                const u64 a = list[low], b = list[high];
                if ((a < b) == ((low & k) == 0)) {
                    list[low] = b;
                    list[high] = a;
                }
            }
            __syncthreads();
        }
        for (int i = threadIdx.x; i < size; i += FINISH_THREADS) {
            u64 own = list[i];
            // The first pass sorts 32 elements from the beginning, later ones end the merge of k.
            for (int inner = k == 32 ? 2 : 32; inner <= 32; inner <<= 1) {
                const int span = inner == 32 ? k : inner;
                for (int j = inner >> 1; j; j >>= 1) {
                    const u64 other = __shfl_xor_sync(ALL, own, j);
                    const bool descending = (i & span) == 0, low = (lane & j) == 0;
                    own = (own < other) == (low == descending) ? other : own;
                }
            }
            list[i] = own;
        }
        __syncthreads();
    }
}
