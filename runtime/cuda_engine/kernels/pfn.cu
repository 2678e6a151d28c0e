// The layers of a pillar encoder over decorated points: one or two of them (mmdet3d's PFNLayer), a warp for a pillar.
//
// A layer is relu(product + bias) and a maximum over the pillar's MAX_POINTS slots. Slots without a point are zero before
// the first layer, hence relu(bias) after it, and take part in the maximum; all of them are one constant. Rounding to
// float16 and ReLU keep order, so the maximum is taken before both.
//
// The second layer's input is [x; max of x over the pillar], so its product is W_x x + W_max max, of which the second part
// is the same for all points: both maxima are taken in one pass, and 32 points at a time are enough.
//
// Compile-time parameters: those of pillars.cu, which stands before decoration.cu and this file.
//
// Constraints (what the compiler can see is asserted below), besides those of pillars.cu:
//   model       one layer of at most 128 channels (HIDDEN is 0), or two of at most 32 (HIDDEN) and 64
//   alignment   weights to 4 bytes, rows to 16
//   weights     finite
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only pillars         on a GPU, against the encoder in numpy
//   python -m pytest tests/runtime/test_cuda_engine_encoders.py    the same without one

#if !defined(FEATURE_PITCH) || !defined(ROUNDED)
#error "pfn.cu: decoration.cu must stand before it"
#endif

static_assert(0 <= HIDDEN && HIDDEN <= 32, "a lane for each channel of the first of two layers");
static_assert(1 <= CHANNELS && CHANNELS <= (HIDDEN ? 64 : 128), "two or four channels of a lane");

#define PER_LANE ((CHANNELS + 31) / 32)
#define ROWS (MAX_POINTS < 32 ? MAX_POINTS : 32)  // points that are added at a time
#define LEAST (-3.4e38f)

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

// Both forms have: memory of a block; `load`, of weights, for all its threads; then for each pillar `begin`, `add` for its
// points and `result` of the lane's channels.
#if HIDDEN

#define HIDDEN_PITCH ((HIDDEN + 3) / 4 * 4)
// Lanes of one point in the first layer, and points that a warp computes at once there.
#define LANES (HIDDEN <= 4 ? 4 : HIDDEN <= 8 ? 8 : HIDDEN <= 16 ? 16 : 32)
#define SIDE (32 / LANES)

struct __align__(16) LayerMemory {
    float hidden[ENCODE_WARPS][ROWS * HIDDEN_PITCH];
    float largest[ENCODE_WARPS][HIDDEN_PITCH];
    // Weights of the maxima, four of a channel together: used once a pillar, so not worth registers.
    float4 second_part[HIDDEN_PITCH / 4][PER_LANE * 32];
};

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

struct Layers {
    float w1[FEATURE_PITCH], wx[PER_LANE][HIDDEN_PITCH], b2[PER_LANE], padded_2[PER_LANE], b1, padded_1;
    float highest, sums[PER_LANE];

    // weights: first layer [FEATURES][HIDDEN], its bias, second layer [2 * HIDDEN][CHANNELS], its bias.
    __device__ __forceinline__ void load(LayerMemory& memory, const float* weights, int warp, int lane) {
        float* const units = memory.hidden[warp];
        float* const maxima = memory.largest[warp];
        const int unit = lane % LANES;
        const bool computes = unit < HIDDEN;
        const float* const bias_1 = weights + FEATURES * HIDDEN;
        const float* const second = bias_1 + HIDDEN;
        const float* const bias_2 = second + 2 * HIDDEN * CHANNELS;
        for (int f = 0; f < FEATURE_PITCH; ++f) w1[f] = computes && f < FEATURES ? weights[f * HIDDEN + unit] : 0.0f;
        b1 = computes ? bias_1[unit] : 0.0f;
        padded_1 = fmaxf(b1, 0.0f);
        if (lane < HIDDEN_PITCH) maxima[lane] = lane < HIDDEN ? fmaxf(bias_1[lane], 0.0f) : 0.0f;
        // Units beyond HIDDEN are read with a weight of zero: they must be numbers.
        for (int i = lane; i < ROWS * HIDDEN_PITCH; i += 32) units[i] = 0.0f;
        __syncwarp();
        for (int p = 0; p < PER_LANE; ++p) {
            const int channel = lane + 32 * p;
            const bool real = channel < CHANNELS;
            for (int h = 0; h < HIDDEN_PITCH; ++h)
                wx[p][h] = real && h < HIDDEN ? second[h * CHANNELS + channel] : 0.0f;
            b2[p] = real ? bias_2[channel] : 0.0f;
            padded_2[p] = dot(maxima, wx[p]);
        }
        for (int i = threadIdx.x; i < HIDDEN_PITCH * PER_LANE * 32; i += ENCODE_WARPS * 32) {
            const int h = i / (PER_LANE * 32), channel = i % (PER_LANE * 32);
            const bool real = channel < CHANNELS && h < HIDDEN;
            ((float*)&memory.second_part[h / 4][channel])[h % 4] =
                real ? second[(HIDDEN + h) * CHANNELS + channel] : 0.0f;
        }
        __syncthreads();
    }

    __device__ __forceinline__ void begin(int count) {
        highest = count < MAX_POINTS ? padded_1 : 0.0f;
        for (int p = 0; p < PER_LANE; ++p) sums[p] = count < MAX_POINTS ? padded_2[p] : LEAST;
    }

    __device__ __forceinline__ void add(LayerMemory& memory, const float* rows, int count, int warp, int lane) {
        float* const units = memory.hidden[warp];
        const int unit = lane % LANES, side = lane / LANES;
        for (int start = 0; start < count; start += SIDE) {
            const int row = start + side;
            if (row < count && unit < HIDDEN) {
                const float sum = ROUNDED(dot(rows + row * FEATURE_PITCH, w1));
                const float unit_value = fmaxf(ROUNDED(sum + b1), 0.0f);
                units[row * HIDDEN_PITCH + unit] = unit_value;
                highest = fmaxf(highest, unit_value);
            }
        }
        for (int step = LANES; step < 32; step <<= 1) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
        if (lane < HIDDEN) memory.largest[warp][lane] = highest;
        __syncwarp();
        for (int row = 0; row < count; ++row)
            for (int p = 0; p < PER_LANE; ++p) sums[p] = fmaxf(sums[p], dot(units + row * HIDDEN_PITCH, wx[p]));
    }

    __device__ __forceinline__ float result(const LayerMemory& memory, int p, int warp, int lane) const {
        const float sum = ROUNDED(sums[p] + shared_dot(memory.largest[warp], memory.second_part, lane + 32 * p));
        return fmaxf(ROUNDED(sum + b2[p]), 0.0f);
    }
};

#else

struct LayerMemory {};

struct Layers {
    float w[PER_LANE][FEATURE_PITCH], b[PER_LANE], sums[PER_LANE];

    // weights: [FEATURES][CHANNELS], its bias.
    __device__ __forceinline__ void load(LayerMemory&, const float* weights, int, int lane) {
        for (int p = 0; p < PER_LANE; ++p) {
            const int channel = lane + 32 * p;
            const bool real = channel < CHANNELS;
            for (int f = 0; f < FEATURE_PITCH; ++f)
                w[p][f] = real && f < FEATURES ? weights[f * CHANNELS + channel] : 0.0f;
            b[p] = real ? weights[FEATURES * CHANNELS + channel] : 0.0f;
        }
    }

    __device__ __forceinline__ void begin(int count) {
        for (int p = 0; p < PER_LANE; ++p) sums[p] = count < MAX_POINTS ? 0.0f : LEAST;
    }

    __device__ __forceinline__ void add(LayerMemory&, const float* rows, int count, int, int) {
        for (int row = 0; row < count; ++row)
            for (int p = 0; p < PER_LANE; ++p) sums[p] = fmaxf(sums[p], dot(rows + row * FEATURE_PITCH, w[p]));
    }

    __device__ __forceinline__ float result(const LayerMemory&, int p, int, int) const {
        return fmaxf(ROUNDED(ROUNDED(sums[p]) + b[p]), 0.0f);
    }
};

#endif
