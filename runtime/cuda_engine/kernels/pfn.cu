// The last kernel of pillars.cu: one warp decorates a pillar's points, runs both PFN layers and writes the canvas.
//
// The second layer's input is [x; max of x over the pillar], so its product is W_x x + W_max max, of which the second part
// is the same for all points. Slots without a point are zero before the first layer, hence relu(bias) after it, and take
// part in both maxima (mmdet3d's PFNLayer); all of them are one constant.
// Rounding to float16 and ReLU keep order, so the maximum is taken before both.

#define FEATURE_PITCH ((FEATURES + 3) / 4 * 4)
#define HIDDEN_PITCH ((HIDDEN + 3) / 4 * 4)
// Lanes of one point in the first layer, and points that a warp computes at once there.
#define LANES (HIDDEN <= 4 ? 4 : HIDDEN <= 8 ? 8 : HIDDEN <= 16 ? 16 : 32)
#define SIDE (32 / LANES)
#define PER_LANE ((CHANNELS + 31) / 32)

#if ROUND_HALF
#define ROUNDED(value) half_value(half_bits(value))
#else
#define ROUNDED(value) (value)
#endif

// Bitonic network over the first `size` lanes (a power of two), ascending.
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

// Indices of the pillar's first MAX_POINTS points, ascending over the lanes; NONE beyond. `raw` is the lane's own of the
// first 32 in order of arrival.
__device__ __forceinline__ u32 first_points(const u32* order, uint4 pillar, u32 raw, int lane) {
    const int count = (int)pillar.z;
    if (count == 1) return raw;
    u32 best = sort_lanes(raw, count <= 2 ? 2 : count <= 4 ? 4 : count <= 8 ? 8 : count <= 16 ? 16 : 32, lane);
    for (int start = 32; start < count; start += 32) {
        const u32 next = start + lane < count ? order[pillar.y + start + lane] : NONE;
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

__device__ __forceinline__ u32 load_raw(const u32* order, uint4 pillar, int lane) {
    return lane < (int)pillar.z ? order[pillar.y + lane] : NONE;
}

__device__ __forceinline__ void load_point(float (&value)[COLUMNS], const float* points, u32 index) {
    for (int c = 0; c < COLUMNS; ++c) value[c] = index == NONE ? 0.0f : points[(long long)index * COLUMNS + c];
}

// Sum over rows in the order of `runtime.preprocess`: four interleaved partial sums.
__device__ __forceinline__ float ordered_sum(float value, int count, int lane) {
    float lanes = 0.0f + value;
    for (int start = 4; start < count; start += 4) lanes += __shfl_sync(ALL, value, (start + (lane & 3)) & 31);
    const float s0 = __shfl_sync(ALL, lanes, 0), s1 = __shfl_sync(ALL, lanes, 1);
    const float s2 = __shfl_sync(ALL, lanes, 2), s3 = __shfl_sync(ALL, lanes, 3);
    return ((s0 + s1) + s2) + s3;
}

// The lane's features to its row in shared memory; all lanes take part, those without a point write nothing.
__device__ __forceinline__ void decorate(float* row, const float (&value)[COLUMNS], int cell, int count, int lane) {
    float feature[FEATURE_PITCH];
    for (int c = 0; c < FEATURE_PITCH; ++c) feature[c] = c < COLUMNS ? value[c] : 0.0f;
    for (int axis = 0; axis < 3; ++axis)
        feature[COLUMNS + axis] = value[axis] - ordered_sum(value[axis], count, lane) / (float)count;
    const float scale[3] = {CENTER_SCALE_X, CENTER_SCALE_Y, CENTER_SCALE_Z};
    const float offset[3] = {CENTER_OFFSET_X, CENTER_OFFSET_Y, CENTER_OFFSET_Z};
    for (int axis = 0; axis < CENTER_DIMS; ++axis) {
        const int index = axis == 0 ? cell % GRID_X : axis == 1 ? cell / GRID_X : 0;
        feature[COLUMNS + 3 + axis] = value[axis] - ((float)index * scale[axis] + offset[axis]);
    }
    if (lane >= count) return;
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

// Four (two) neighbouring lanes' codes (float16 numbers) as one word of the canvas.
__device__ __forceinline__ void write_canvas(char* cell, long long plane, float value, int channel, int lane) {
#if OUT_INT8
    const float code = fminf(fmaxf(rintf(value / OUT_SCALE), -128.0f), 127.0f);
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
}

// weights: first layer [FEATURES][HIDDEN], its bias, second layer [2 * HIDDEN][CHANNELS], its bias.
// features: [pillar][CHANNELS] float32 for checks, or null.
extern "C" __global__ void __launch_bounds__(ENCODE_WARPS * 32, ENCODE_BLOCKS) pillars_encode(
    const float* points, const u32* order, const uint4* pillars, const int* counters, const float* weights,
    char* canvas, long long plane, float* features)
{
    __shared__ __align__(16) float decorated[ENCODE_WARPS][MAX_POINTS * FEATURE_PITCH];
    __shared__ __align__(16) float hidden[ENCODE_WARPS][MAX_POINTS * HIDDEN_PITCH];
    __shared__ __align__(16) float largest[ENCODE_WARPS][HIDDEN_PITCH];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const int unit = lane % LANES, side = lane / LANES;
    const bool computes = unit < HIDDEN;
    float* const rows = decorated[warp];
    float* const units = hidden[warp];
    float* const maxima = largest[warp];

    const float* const bias_1 = weights + FEATURES * HIDDEN;
    const float* const second = bias_1 + HIDDEN;
    const float* const bias_2 = second + 2 * HIDDEN * CHANNELS;
    float w1[FEATURE_PITCH], wx[PER_LANE][HIDDEN_PITCH], wm[PER_LANE][HIDDEN_PITCH], b2[PER_LANE], padded_2[PER_LANE];
    for (int f = 0; f < FEATURE_PITCH; ++f) w1[f] = computes && f < FEATURES ? weights[f * HIDDEN + unit] : 0.0f;
    const float b1 = computes ? bias_1[unit] : 0.0f, padded_1 = fmaxf(b1, 0.0f);
    if (lane < HIDDEN_PITCH) maxima[lane] = lane < HIDDEN ? fmaxf(bias_1[lane], 0.0f) : 0.0f;
    // Units beyond HIDDEN are read with a weight of zero: they must be numbers.
    for (int i = lane; i < MAX_POINTS * HIDDEN_PITCH; i += 32) units[i] = 0.0f;
    __syncwarp();
    for (int p = 0; p < PER_LANE; ++p) {
        const int channel = lane + 32 * p;
        const bool real = channel < CHANNELS;
        for (int h = 0; h < HIDDEN_PITCH; ++h) {
            wx[p][h] = real && h < HIDDEN ? second[h * CHANNELS + channel] : 0.0f;
            wm[p][h] = real && h < HIDDEN ? second[(HIDDEN + h) * CHANNELS + channel] : 0.0f;
        }
        b2[p] = real ? bias_2[channel] : 0.0f;
        padded_2[p] = dot(maxima, wx[p]);
    }

    // Loads run ahead of their use: a pillar's record by three pillars, its indices by two, its points by one.
    const int num_pillars = counters[0], stride = gridDim.x * ENCODE_WARPS;
    int index = blockIdx.x * ENCODE_WARPS + warp;
    uint4 pillar = load_pillar(pillars, index, num_pillars);
    uint4 next = load_pillar(pillars, index + stride, num_pillars);
    uint4 after = load_pillar(pillars, index + 2 * stride, num_pillars);
    float value[COLUMNS];
    load_point(value, points, first_points(order, pillar, load_raw(order, pillar, lane), lane));
    u32 raw = load_raw(order, next, lane);
    for (; index < num_pillars; index += stride) {
        float ahead[COLUMNS];
        load_point(ahead, points, first_points(order, next, raw, lane));
        raw = load_raw(order, after, lane);
        const uint4 last = load_pillar(pillars, index + 3 * stride, num_pillars);

        const int count = min((int)pillar.z, MAX_POINTS), cell = (int)pillar.x;
        decorate(rows + min(lane, MAX_POINTS - 1) * FEATURE_PITCH, value, cell, count, lane);
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
            const float sum = ROUNDED(sums[p] + dot(maxima, wm[p]));
            const float result = fmaxf(ROUNDED(sum + b2[p]), 0.0f);
            write_canvas(canvas + canvas_offset(cell), plane, result, channel, lane);
            if (features && channel < CHANNELS) features[(long long)index * CHANNELS + channel] = result;
        }
        // The next pillar overwrites the rows that slower lanes may still read.
        __syncwarp();
        for (int c = 0; c < COLUMNS; ++c) value[c] = ahead[c];
        pillar = next;
        next = after;
        after = last;
    }
}
