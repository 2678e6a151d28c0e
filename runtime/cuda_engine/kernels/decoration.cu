// A pillar's points for pfn.cu: the first MAX_POINTS of them in order of arrival, and their decoration.
//
// A decorated point is [its columns, x y z less the mean of the pillar's points, x y z less the pillar's centre, the
// length of x y z], of which a model may leave out all but the first part. In a LEGACY encoder x y z are the offsets to the centre
// wherever they stand by themselves: mmdet3d's writes the offsets into its input before it takes the length.
//
// Compile-time parameters: those of pillars.cu, which stands before this file.
//
// Constraints (what the compiler can see is asserted below), besides those of pillars.cu:
//   launch      whole warps; all lanes of a warp take part in each function that has a `lane`
//   points      finite, as pillars_assign leaves them
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only pillars         on a GPU, against runtime.preprocess
//   python -m pytest tests/runtime/test_cuda_engine_encoders.py    the same without one

#if !defined(NUM_COUNTER) || !defined(TILES)
#error "decoration.cu: pillars.cu must stand before it"
#endif

static_assert(ENCODE_GROUP == 2 || ENCODE_GROUP == 4 || ENCODE_GROUP == 8, "lanes of a pillar, a power of two");
static_assert(3 <= COLUMNS && FEATURES <= 16, "columns of a point, features of a decorated one");
static_assert(FEATURES == COLUMNS + 3 * CLUSTER + CENTER_DIMS + DISTANCE, "a decorated point's parts");
static_assert(0 <= CENTER_DIMS && CENTER_DIMS <= 3, "offsets to the centre");

#define FEATURE_PITCH ((FEATURES + 3) / 4 * 4)
#define SEGMENT (32 / ENCODE_GROUP)  // lanes of a pillar
#define FEW (MAX_POINTS < SEGMENT ? MAX_POINTS : SEGMENT)
#define SLOTS ((MAX_POINTS + 31) / 32)  // points of a lane where the whole warp has one pillar
#define AHEAD 8                         // loads in flight where a pillar has far more points than that

#if ROUND_HALF
#define ROUNDED(value) half_value(half_bits(value))
#else
#define ROUNDED(value) (value)
#endif

// Bitonic network over each `size` lanes (a power of two), ascending.
__device__ __forceinline__ u32 sort_lanes(u32 value, int size, int lane) {
    for (int k = 2; k <= size; k <<= 1) {
        for (int j = k >> 1; j; j >>= 1) {
            const u32 other = __shfl_xor_sync(ALL, value, j);
            const bool ascending = (lane & k) == 0 || k == size, low = (lane & j) == 0;
            value = low == ascending ? min(value, other) : max(value, other);
        }
    }
    return value;
}

// The last stage of that network: ascending from values that first rise and then fall over the lanes, or the reverse.
__device__ __forceinline__ u32 merge_lanes(u32 value, int lane) {
    for (int j = 16; j; j >>= 1) {
        const u32 other = __shfl_xor_sync(ALL, value, j);
        value = lane & j ? max(value, other) : min(value, other);
    }
    return value;
}

// Lanes to sort where at most `most` of them hold something.
__device__ __forceinline__ int sort_size(int most) {
    return most <= 1 ? 1 : most <= 2 ? 2 : most <= 4 ? 4 : most <= 8 ? 8 : most <= 16 ? 16 : 32;
}

// Keeps the smallest of a list and of one value a lane. The list ascends over lanes and then over slots, so that the largest
// of both are those of its last slot against the values; what remains goes on to the slot before.
__device__ __forceinline__ void keep_smallest(u32 (&list)[SLOTS], u32 value, int lane) {
    u32 rest = sort_lanes(value, 32, lane);
#pragma unroll
    for (int slot = SLOTS - 1; slot >= 0; --slot) {
        const u32 reversed = __shfl_xor_sync(ALL, rest, 31);
        if (slot + 1 < SLOTS) list[slot + 1] = merge_lanes(max(list[slot], reversed), lane);
        rest = merge_lanes(min(list[slot], reversed), lane);
    }
    list[0] = rest;
}

// Indices of a pillar's first MAX_POINTS points, ascending over lanes and then over slots; NONE beyond. The pillar may
// have any number of points: almost all are larger than what the list has after a few of them.
__device__ __forceinline__ void first_points(u32 (&list)[SLOTS], const u32* order, u32 base, int count, int lane) {
    list[0] = sort_lanes(lane < count ? order[base + lane] : NONE, sort_size(count), lane);
#pragma unroll
    for (int slot = 1; slot < SLOTS; ++slot) list[slot] = NONE;
    const u32* const own = order + base + lane;
    for (int start = 32; start < count; start += 32) {
        for (; start + 32 * AHEAD <= count; start += 32 * AHEAD) {
            u32 least = NONE;
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) least = min(least, own[start + 32 * a]);
            if (__any_sync(ALL, least < __shfl_sync(ALL, list[SLOTS - 1], 31))) break;
        }
        const u32 next = start + lane < count ? own[start] : NONE;
        if (__any_sync(ALL, next < __shfl_sync(ALL, list[SLOTS - 1], 31))) keep_smallest(list, next, lane);
    }
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) list[slot] = slot * 32 + lane < MAX_POINTS ? list[slot] : NONE;
}

// The lane's point of its pillar of a few points, in order of arrival.
__device__ __forceinline__ u32 load_index(const u32* order, uint4 pillar, int slot) {
    return (int)pillar.z <= FEW && slot < (int)pillar.z ? order[pillar.y + slot] : NONE;
}

__device__ __forceinline__ void load_point(float (&value)[COLUMNS], const float* points, u32 index) {
    for (int c = 0; c < COLUMNS; ++c) value[c] = index == NONE ? 0.0f : points[(long long)index * COLUMNS + c];
}

// The largest number of points among the pillars of a few points.
__device__ __forceinline__ int most_points(uint4 pillar) {
    int most = (int)pillar.z <= FEW ? (int)pillar.z : 0;
    for (int step = SEGMENT; step < 32; step <<= 1) most = max(most, __shfl_xor_sync(ALL, most, step));
    return most;
}

// The nearest float32 to value / divisor, from the divisor's rounded reciprocal: the second quotient is within one unit of
// the last place, and the correction of such a one rounds as a division does (Markstein, IBM J. R&D 34(1), 1990).
__device__ __forceinline__ float quotient(float value, float divisor, float reciprocal) {
    const float first = value * reciprocal;
    const float second = fmaf(fmaf(-first, divisor, value), reciprocal, first);
    return fmaf(fmaf(-second, divisor, value), reciprocal, second);
}

// The order of `runtime.preprocess`: four interleaved partial sums, each in a lane of the `first` four.
__device__ __forceinline__ float sum_of_lanes(float lanes, int first) {
    const float s0 = __shfl_sync(ALL, lanes, first), s1 = __shfl_sync(ALL, lanes, first + 1);
    const float s2 = __shfl_sync(ALL, lanes, first + 2), s3 = __shfl_sync(ALL, lanes, first + 3);
    return ((s0 + s1) + s2) + s3;
}

// Sum over a pillar's points, which lie in `WIDTH` lanes in order with zeros behind them. No pillar has more than `most`.
template <int WIDTH>
__device__ __forceinline__ float ordered_sum(float value, int most, int lane) {
    const int first = lane & ~(WIDTH - 1);
    float lanes = 0.0f + value;
    for (int start = 4; start < most; start += 4)
        lanes += __shfl_sync(ALL, value, first | ((start + (lane & 3)) & (WIDTH - 1)));
    return sum_of_lanes(lanes, first);
}

// The mean of a pillar's x, y, z, as in `ordered_sum`. `reciprocal` is the lane's 1 / (lane + 1).
template <int WIDTH>
__device__ __forceinline__ void mean_of_lanes(
    float (&mean)[3], const float (&value)[COLUMNS], int count, int most, int lane, float reciprocal)
{
    // One point is its own mean.
    for (int axis = 0; axis < 3; ++axis) mean[axis] = value[axis];
    if (CLUSTER && most > 1) {
        const float inverse = __shfl_sync(ALL, reciprocal, (count - 1) & 31);
        for (int axis = 0; axis < 3; ++axis)
            mean[axis] = quotient(ordered_sum<WIDTH>(value[axis], most, lane), (float)count, inverse);
    }
}

// The same for a pillar whose points are more than lanes.
__device__ __forceinline__ void mean_of_slots(
    float (&mean)[3], const u32 (&list)[SLOTS], const float* points, int count, int lane)
{
    float lanes[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        if (slot * 32 >= count) break;
        for (int axis = 0; axis < 3; ++axis) {
            const float value = list[slot] == NONE ? 0.0f : points[(long long)list[slot] * COLUMNS + axis];
            for (int start = 0; start < 32; start += 4) lanes[axis] += __shfl_sync(ALL, value, start + (lane & 3));
        }
    }
    for (int axis = 0; axis < 3; ++axis) mean[axis] = sum_of_lanes(lanes[axis], 0) / (float)count;
}

// A point's features to its row in shared memory.
__device__ __forceinline__ void decorate(float* row, const float (&value)[COLUMNS], const float (&mean)[3], u32 place) {
    float feature[FEATURE_PITCH];
    for (int c = 0; c < FEATURE_PITCH; ++c) feature[c] = c < COLUMNS ? value[c] : 0.0f;
    if (CLUSTER)
        for (int axis = 0; axis < 3; ++axis) feature[COLUMNS + axis] = value[axis] - mean[axis];
    const float scale[3] = {CENTER_SCALE_X, CENTER_SCALE_Y, CENTER_SCALE_Z};
    const float offset[3] = {CENTER_OFFSET_X, CENTER_OFFSET_Y, CENTER_OFFSET_Z};
    for (int axis = 0; axis < CENTER_DIMS; ++axis) {
        const u32 index = axis == 0 ? place & 0xffffu : axis == 1 ? place >> 16 : 0;
        const float centered = value[axis] - ((float)index * scale[axis] + offset[axis]);
        feature[COLUMNS + 3 * CLUSTER + axis] = centered;
        if (LEGACY) feature[axis] = centered;
    }
#if DISTANCE
    // As `runtime.preprocess`: a product of two float32 is exact in double precision.
    float squares = feature[0] * feature[0];
    for (int axis = 1; axis < 3; ++axis) squares = (float)((double)feature[axis] * (double)feature[axis] + (double)squares);
    feature[FEATURES - 1] = sqrtf(squares);
#endif
    for (int c = 0; c < FEATURE_PITCH; c += 4)
        *(float4*)&row[c] = make_float4(
            ROUNDED(feature[c]), ROUNDED(feature[c + 1]), ROUNDED(feature[c + 2]), ROUNDED(feature[c + 3]));
}
