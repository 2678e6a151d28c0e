// The last kernel of pillars.cu: decoration, both PFN layers and the canvas.
//
// A warp takes ENCODE_GROUP pillars at a time, four as tuned. Most pillars have a few points, so it loads, sorts and decorates those of all
// at once, eight lanes a pillar; then it computes the layers pillar by pillar, a lane being a channel. A pillar with more
// points is loaded in its turn by the whole warp.
//
// The second layer's input is [x; max of x over the pillar], so its product is W_x x + W_max max, of which the second part
// is the same for all points. Slots without a point are zero before the first layer, hence relu(bias) after it, and take
// part in both maxima (mmdet3d's PFNLayer); all of them are one constant.
// Rounding to float16 and ReLU keep order, so the maximum is taken before both.
//
// Compile-time parameters: those of pillars.cu, which stands before this file.
//
// Constraints (what the compiler can see is asserted below), besides those of pillars.cu:
//   model       at most 32 channels of the first layer and 64 of the second; two layers
//   launch      any number of blocks of ENCODE_WARPS warps, ENCODE_BLOCKS of them at a time on a multiprocessor
//   alignment   weights to 4 bytes, the canvas to 16
//   weights     finite; OUT_SCALE above zero
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only pillars      on a GPU, against the encoder in numpy
//   python -m pytest tests/runtime/test_cuda_engine_ends.py     the same without one

#if !defined(NUM_COUNTER) || !defined(TILES)
#error "pfn.cu: pillars.cu must stand before it"
#endif

static_assert(1 <= HIDDEN && HIDDEN <= 32 && 1 <= CHANNELS && CHANNELS <= 64, "a lane for one and two channels");
static_assert(ENCODE_GROUP == 2 || ENCODE_GROUP == 4 || ENCODE_GROUP == 8, "lanes of a pillar, a power of two");
static_assert(1 <= ENCODE_WARPS && ENCODE_WARPS <= 32 && 1 <= ENCODE_BLOCKS, "at most 1024 threads");

#define FEATURE_PITCH ((FEATURES + 3) / 4 * 4)
#define HIDDEN_PITCH ((HIDDEN + 3) / 4 * 4)
// Lanes of one point in the first layer, and points that a warp computes at once there.
#define LANES (HIDDEN <= 4 ? 4 : HIDDEN <= 8 ? 8 : HIDDEN <= 16 ? 16 : 32)
#define SIDE (32 / LANES)
#define PER_LANE ((CHANNELS + 31) / 32)
#define SEGMENT (32 / ENCODE_GROUP)  // lanes of a pillar
#define FEW (MAX_POINTS < SEGMENT ? MAX_POINTS : SEGMENT)

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

// Lanes to sort where at most `most` of them hold something.
__device__ __forceinline__ int sort_size(int most) {
    return most <= 1 ? 1 : most <= 2 ? 2 : most <= 4 ? 4 : most <= 8 ? 8 : most <= 16 ? 16 : 32;
}

// Indices of a pillar's first MAX_POINTS points, ascending over the warp's lanes; NONE beyond. The pillar may have any
// number of points.
__device__ __forceinline__ u32 first_points(const u32* order, u32 base, int count, int lane) {
    u32 best = sort_lanes(lane < count ? order[base + lane] : NONE, sort_size(count), lane);
    for (int start = 32; start < count; start += 32) {
        const u32 next = start + lane < count ? order[base + start + lane] : NONE;
        if (!__any_sync(ALL, next < __shfl_sync(ALL, best, 31))) continue;
        // The 32 smallest of both are the smaller ones of one list against the other reversed.
        const u32 sorted = sort_lanes(next, 32, lane);
        best = sort_lanes(min(best, __shfl_xor_sync(ALL, sorted, 31)), 32, lane);
    }
    return lane < MAX_POINTS ? best : NONE;
}

__device__ __forceinline__ uint4 load_pillar(const uint4* pillars, int pillar, int num_pillars) {
    return pillar < num_pillars ? pillars[pillar] : make_uint4(0, 0, 0, 0);
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

// Sum over a pillar's points, which lie in `WIDTH` lanes in order with zeros behind them, in the order of
// `runtime.preprocess`: four interleaved partial sums. No pillar has more than `most` points.
template <int WIDTH>
__device__ __forceinline__ float ordered_sum(float value, int most, int lane) {
    const int first = lane & ~(WIDTH - 1);
    float lanes = 0.0f + value;
    for (int start = 4; start < most; start += 4)
        lanes += __shfl_sync(ALL, value, first | ((start + (lane & 3)) & (WIDTH - 1)));
    const float s0 = __shfl_sync(ALL, lanes, first), s1 = __shfl_sync(ALL, lanes, first + 1);
    const float s2 = __shfl_sync(ALL, lanes, first + 2), s3 = __shfl_sync(ALL, lanes, first + 3);
    return ((s0 + s1) + s2) + s3;
}

// The lane's features to its row in shared memory; all lanes take part, those without a point write nothing.
// `reciprocal` is the lane's 1 / (lane + 1).
template <int WIDTH>
__device__ __forceinline__ void decorate(
    float* row, const float (&value)[COLUMNS], u32 place, int count, int most, int lane, float reciprocal)
{
    float feature[FEATURE_PITCH];
    for (int c = 0; c < FEATURE_PITCH; ++c) feature[c] = c < COLUMNS ? value[c] : 0.0f;
    // One point is its own mean.
    if (most > 1) {
        const float inverse = __shfl_sync(ALL, reciprocal, (count - 1) & 31);
        for (int axis = 0; axis < 3; ++axis)
            feature[COLUMNS + axis] =
                value[axis] - quotient(ordered_sum<WIDTH>(value[axis], most, lane), (float)count, inverse);
    }
    const float scale[3] = {CENTER_SCALE_X, CENTER_SCALE_Y, CENTER_SCALE_Z};
    const float offset[3] = {CENTER_OFFSET_X, CENTER_OFFSET_Y, CENTER_OFFSET_Z};
    for (int axis = 0; axis < CENTER_DIMS; ++axis) {
        const u32 index = axis == 0 ? place & 0xffffu : axis == 1 ? place >> 16 : 0;
        feature[COLUMNS + 3 + axis] = value[axis] - ((float)index * scale[axis] + offset[axis]);
    }
    if ((lane & (WIDTH - 1)) >= count) return;
    for (int c = 0; c < FEATURE_PITCH; c += 4)
        *(float4*)&row[c] = make_float4(
            ROUNDED(feature[c]), ROUNDED(feature[c + 1]), ROUNDED(feature[c + 2]), ROUNDED(feature[c + 3]));
}

template <int LENGTH>
__device__ __forceinline__ float dot(const float* row, const float (&weights)[LENGTH]) {
    float sum = 0.0f;
    for (int c = 0; c < LENGTH; c += 4) {
        const float4 value = *(const float4*)&row[c];
        sum = fmaf(value.x, weights[c], sum);
        sum = fmaf(value.y, weights[c + 1], sum);
        sum = fmaf(value.z, weights[c + 2], sum);
        sum = fmaf(value.w, weights[c + 3], sum);
    }
    return sum;
}

__device__ __forceinline__ float shared_dot(
    const float* row, const float4 (&weights)[HIDDEN_PITCH / 4][PER_LANE * 32], int channel)
{
    float sum = 0.0f;
    for (int h = 0; h < HIDDEN_PITCH; h += 4) {
        const float4 value = *(const float4*)&row[h], weight = weights[h / 4][channel];
        sum = fmaf(value.x, weight.x, sum);
        sum = fmaf(value.y, weight.y, sum);
        sum = fmaf(value.z, weight.z, sum);
        sum = fmaf(value.w, weight.w, sum);
    }
    return sum;
}

// Four (two) neighbouring lanes' codes (float16 numbers) as one word of the canvas; in a dense canvas each lane's own.
__device__ __forceinline__ void write_canvas(char* cell, long long plane, float value, int channel, int lane) {
#if OUT_DENSE
    if (channel < CHANNELS) *(float*)(cell + channel * plane) = value;
#else
#if OUT_INT8
    // Not negative after ReLU; the bound keeps infinity out of the quotient.
    const float code = fminf(rintf(quotient(fminf(value, 256.0f * OUT_SCALE), OUT_SCALE, 1.0f / OUT_SCALE)), 127.0f);
    u32 word = channel < CHANNELS ? ((u32)(int)code & 0xffu) << (8 * (lane & 3)) : 0;
    word |= __shfl_xor_sync(ALL, word, 1);
    word |= __shfl_xor_sync(ALL, word, 2);
    const bool writes = (lane & 3) == 0;
    const int in_chunk = channel % 16;
#else
    u32 word = channel < CHANNELS ? half_bits(value) << (16 * (lane & 1)) : 0;
    word |= __shfl_xor_sync(ALL, word, 1);
    const bool writes = (lane & 1) == 0;
    const int in_chunk = channel % 8 * 2;
#endif
    if (writes && channel < CHANNELS) *(u32*)(cell + channel / CHUNK_CHANNELS * plane + in_chunk) = word;
#endif
}

// weights: first layer [FEATURES][HIDDEN], its bias, second layer [2 * HIDDEN][CHANNELS], its bias.
// features: [pillar][CHANNELS] float32 before quantization, for whoever inspects a frame; null leaves them out.
extern "C" __global__ void __launch_bounds__(ENCODE_WARPS * 32, ENCODE_BLOCKS) pillars_encode(
    const float* points, const u32* order, const uint4* pillars, const int* counters, const float* weights,
    char* canvas, long long plane, float* features)
{
    __shared__ __align__(16) float few_rows[ENCODE_WARPS][32 * FEATURE_PITCH];
    __shared__ __align__(16) float many_rows[ENCODE_WARPS][32 * FEATURE_PITCH];
    __shared__ __align__(16) float hidden[ENCODE_WARPS][MAX_POINTS * HIDDEN_PITCH];
    __shared__ __align__(16) float largest[ENCODE_WARPS][HIDDEN_PITCH];
    // Weights of the maxima, four of a channel together: used once a pillar, so not worth registers.
    __shared__ __align__(16) float4 second_part[HIDDEN_PITCH / 4][PER_LANE * 32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const int unit = lane % LANES, side = lane / LANES;
    const bool computes = unit < HIDDEN;
    const int slot = lane % SEGMENT, member = lane / SEGMENT;
    float* const units = hidden[warp];
    float* const maxima = largest[warp];

    const float* const bias_1 = weights + FEATURES * HIDDEN;
    const float* const second = bias_1 + HIDDEN;
    const float* const bias_2 = second + 2 * HIDDEN * CHANNELS;
    begin_with_next();
    const float reciprocal = 1.0f / (float)(lane + 1);
    float w1[FEATURE_PITCH], wx[PER_LANE][HIDDEN_PITCH], b2[PER_LANE], padded_2[PER_LANE];
    for (int f = 0; f < FEATURE_PITCH; ++f) w1[f] = computes && f < FEATURES ? weights[f * HIDDEN + unit] : 0.0f;
    const float b1 = computes ? bias_1[unit] : 0.0f, padded_1 = fmaxf(b1, 0.0f);
    if (lane < HIDDEN_PITCH) maxima[lane] = lane < HIDDEN ? fmaxf(bias_1[lane], 0.0f) : 0.0f;
    // Units beyond HIDDEN are read with a weight of zero: they must be numbers.
    for (int i = lane; i < MAX_POINTS * HIDDEN_PITCH; i += 32) units[i] = 0.0f;
    __syncwarp();
    for (int p = 0; p < PER_LANE; ++p) {
        const int channel = lane + 32 * p;
        const bool real = channel < CHANNELS;
        for (int h = 0; h < HIDDEN_PITCH; ++h) wx[p][h] = real && h < HIDDEN ? second[h * CHANNELS + channel] : 0.0f;
        b2[p] = real ? bias_2[channel] : 0.0f;
        padded_2[p] = dot(maxima, wx[p]);
    }

    for (int i = threadIdx.x; i < HIDDEN_PITCH * PER_LANE * 32; i += ENCODE_WARPS * 32) {
        const int h = i / (PER_LANE * 32), channel = i % (PER_LANE * 32);
        const bool real = channel < CHANNELS && h < HIDDEN;
        ((float*)&second_part[h / 4][channel])[h % 4] = real ? second[(HIDDEN + h) * CHANNELS + channel] : 0.0f;
    }
    __syncthreads();
    wait_for_previous();

    // Loads run ahead of their use: pillars' records by three groups, indices by two, points by one.
    const int num_pillars = counters[COUNTER_VOXELS], stride = gridDim.x * ENCODE_WARPS * ENCODE_GROUP;
    int first = (blockIdx.x * ENCODE_WARPS + warp) * ENCODE_GROUP;
    uint4 pillar = load_pillar(pillars, first + member, num_pillars);
    uint4 next = load_pillar(pillars, first + stride + member, num_pillars);
    uint4 after = load_pillar(pillars, first + 2 * stride + member, num_pillars);
    int most = most_points(pillar);
    float value[COLUMNS];
    load_point(value, points, sort_lanes(load_index(order, pillar, slot), sort_size(most), lane));
    u32 index = load_index(order, next, slot);
    for (; first < num_pillars; first += stride) {
        const int next_most = most_points(next);
        float ahead[COLUMNS];
        load_point(ahead, points, sort_lanes(index, sort_size(next_most), lane));
        index = load_index(order, after, slot);
        const uint4 last = load_pillar(pillars, first + 3 * stride + member, num_pillars);

        const int few = (int)pillar.z <= FEW ? (int)pillar.z : 0;
        decorate<SEGMENT>(few_rows[warp] + lane * FEATURE_PITCH, value, pillar.w, few, most, lane, reciprocal);
        for (int m = 0; m < ENCODE_GROUP && first + m < num_pillars; ++m) {
            const u32 place = __shfl_sync(ALL, pillar.w, m * SEGMENT);
            int count = (int)__shfl_sync(ALL, pillar.z, m * SEGMENT);
            const float* rows = few_rows[warp] + m * SEGMENT * FEATURE_PITCH;
            if (count > FEW) {
                float many[COLUMNS];
                load_point(many, points, first_points(order, __shfl_sync(ALL, pillar.y, m * SEGMENT), count, lane));
                count = min(count, MAX_POINTS);
                float* const row = many_rows[warp] + lane * FEATURE_PITCH;
                decorate<32>(row, many, place, count, count, lane, reciprocal);
                rows = many_rows[warp];
            }
            __syncwarp();
            float highest = count < MAX_POINTS ? padded_1 : 0.0f;
            for (int start = 0; start < count; start += SIDE) {
                const int row = start + side;
                if (row < count && computes) {
                    const float sum = ROUNDED(dot(rows + row * FEATURE_PITCH, w1));
                    const float unit_value = fmaxf(ROUNDED(sum + b1), 0.0f);
                    units[row * HIDDEN_PITCH + unit] = unit_value;
                    highest = fmaxf(highest, unit_value);
                }
            }
            for (int step = LANES; step < 32; step <<= 1) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
            if (lane < HIDDEN) maxima[lane] = highest;
            __syncwarp();
            float sums[PER_LANE];
            for (int p = 0; p < PER_LANE; ++p) sums[p] = count < MAX_POINTS ? padded_2[p] : -3.4e38f;
            for (int row = 0; row < count; ++row)
                for (int p = 0; p < PER_LANE; ++p) sums[p] = fmaxf(sums[p], dot(units + row * HIDDEN_PITCH, wx[p]));
            for (int p = 0; p < PER_LANE; ++p) {
                const int channel = lane + 32 * p;
                const float sum = ROUNDED(sums[p] + shared_dot(maxima, second_part, channel));
                const float result = fmaxf(ROUNDED(sum + b2[p]), 0.0f);
                write_canvas(canvas + canvas_offset(place), plane, result, channel, lane);
                if (features && channel < CHANNELS) features[(long long)(first + m) * CHANNELS + channel] = result;
            }
            // The next pillar overwrites the rows that slower lanes may still read.
            __syncwarp();
        }
        for (int c = 0; c < COLUMNS; ++c) value[c] = ahead[c];
        most = next_most;
        pillar = next;
        next = after;
        after = last;
    }
}
