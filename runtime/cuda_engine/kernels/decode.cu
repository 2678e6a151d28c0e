// Raw head outputs to boxes, equal to runtime.decode: score threshold, top-k over classes and cells, boxes, circle NMS.
// ranking.cuh stands before it.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.decode_parameters`:
//   CELLS, WIDTH       of a head map; LOGITS = classes * CELLS
//   KEY_LIMIT          key of the smallest logit above the score threshold, KEY_NONE if there is none
//   BIN_START          logit at which the histogram begins: about that one; BINS, BINS_PER_LOGIT
//   TOP_K, MAX_BOXES   before and after NMS; BOX_COLUMNS numbers of a box
//   STRIDE, SIZE_?, LOWER_?  a head cell to metres
//   RANGE_?            post-centre range, lower x y z and upper x y z
//   MIN_RADIUS         squared, float64
//   NORM_BBOX, Y_AXIS_REFERENCE, HAS_OFFSET, HAS_VELOCITY
//   PEAKS              whether a candidate's logit is to be none of its eight neighbours' less; LOGITS is then one class
//   COLLECT_THREADS, COLLECT_VECTORS (of four logits, by a thread at a time), PRUNE_THREADS, FINISH_THREADS
//   SORT               candidates that fit the last kernel's list
//   COUNT_?, HEADER_?  indices of words that the kernels and the host share, and how many there are
//
// Constraints (what the compiler can see is asserted below):
//   compute capability 8.0 or newer; 9.0 overlaps the kernels
//   launches           detect_collect: any number of blocks of COLLECT_THREADS; detect_prune: of PRUNE_THREADS;
//                      detect_finish: one block of FINISH_THREADS; in this order on one stream
//   alignment          heatmap to 16 bytes (a class of it to 4), everything else to 8; header and boxes are one block of memory
//   sizes              LOGITS below 2^31 less one launch's tile; `first`, `second` hold LOGITS candidates
//   state              counts and histogram are zero before the first frame; each frame leaves them so
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only detections     on a GPU, against runtime.decode
//   python -m pytest tests/runtime/test_cuda_engine_ends.py       the same without one
//
// Three kernels, in this order on one stream:
//   detect_collect   every logit above the threshold into `first`, and a histogram of them
//   detect_prune     those that can be among the top k, by the histogram, into `second`: at most a bin more than k
//   detect_finish    one block: exact top k, sort, boxes, NMS; puts counters and histogram back to zero
// Lists are in order of arrival, which the sort undoes.

#if !defined(CELLS) || !defined(WIDTH) || !defined(LOGITS) || !defined(KEY_LIMIT) || !defined(KEY_NONE) || \
    !defined(BIN_START) || !defined(BINS) || !defined(BINS_PER_LOGIT) || !defined(TOP_K) || !defined(MAX_BOXES) || \
    !defined(BOX_COLUMNS) || !defined(STRIDE) || !defined(SIZE_X) || !defined(SIZE_Y) || !defined(LOWER_X) || \
    !defined(LOWER_Y) || !defined(RANGE_X0) || !defined(RANGE_Y0) || !defined(RANGE_Z0) || !defined(RANGE_X1) || \
    !defined(RANGE_Y1) || !defined(RANGE_Z1) || !defined(MIN_RADIUS) || !defined(NORM_BBOX) || \
    !defined(Y_AXIS_REFERENCE) || !defined(HAS_OFFSET) || !defined(HAS_VELOCITY) || !defined(PEAKS) || !defined(COLLECT_THREADS) || \
    !defined(COLLECT_VECTORS) || !defined(PRUNE_THREADS) || !defined(FINISH_THREADS) || !defined(SORT) || \
    !defined(COUNT_COLLECTED) || !defined(COUNT_PRUNED) || !defined(NUM_COUNT) || !defined(HEADER_BOXES) || \
    !defined(HEADER_BROKEN) || !defined(HEADER_CANDIDATES) || !defined(HEADER_WITHOUT_SIZE) || \
    !defined(NUM_HEADER)
#error "decode.cu: a compile-time parameter is not defined"
#endif

// A later class' map begins where the one before it ends.
#define WHOLE_VECTORS (!PEAKS || CELLS % 4 == 0)
#define WARPS (FINISH_THREADS / 32)

static_assert(COLLECT_THREADS % 32 == 0 && COLLECT_THREADS <= 1024, "whole warps, at most 1024 threads");
static_assert(PRUNE_THREADS % 32 == 0 && PRUNE_THREADS <= 1024, "whole warps, at most 1024 threads");
static_assert(FINISH_THREADS % 32 == 0 && FINISH_THREADS <= 1024, "whole warps, at most 1024 threads");
static_assert(FINISH_THREADS >= 256, "kth_largest: a thread for each digit");
static_assert(BINS % PRUNE_THREADS == 0 && BINS * 4 <= 48 * 1024, "whole bins of a thread, in shared memory");
static_assert(SORT >= FINISH_THREADS && (SORT & (SORT - 1)) == 0, "a power of two with room for every thread's word");
static_assert(1 <= TOP_K && TOP_K <= FINISH_THREADS, "a thread for each candidate");
static_assert(1 <= MAX_BOXES && MAX_BOXES <= TOP_K, "boxes come from the candidates");
static_assert(LOGITS % CELLS == 0 && CELLS % WIDTH == 0, "whole maps");
static_assert(!PEAKS || LOGITS == CELLS, "peaks are those of one class");
static_assert(BOX_COLUMNS == 9, "x, y, z, length, width, height, yaw, velocity x and y");
static_assert(NUM_HEADER % 4 == 0, "boxes behind the header stay aligned to 16 bytes");

#if PEAKS
// Whether no neighbour's logit is larger; NaN is none.
__device__ __forceinline__ bool is_peak(const float* heatmap, int cell, u32 key) {
    const int x = cell % WIDTH, y = cell / WIDTH;
    for (int dy = -1; dy <= 1; ++dy)
        for (int dx = -1; dx <= 1; ++dx) {
            const bool inside = x + dx >= 0 && x + dx < WIDTH && y + dy >= 0 && y + dy < CELLS / WIDTH;
            if (inside && key_of(heatmap[cell + dy * WIDTH + dx]) > key) return false;
        }
    return true;
}
#endif

extern "C" __global__ void __launch_bounds__(COLLECT_THREADS) detect_collect(
    const float* heatmap, u64* first, u32* counts, u32* histogram)
{
    __shared__ u32 bins[BINS];
    for (int bin = threadIdx.x; bin < BINS; bin += COLLECT_THREADS) bins[bin] = 0;
    __syncthreads();
    wait_for_previous();
    begin_with_next();
    const int lane = threadIdx.x & 31;
    const int tile = COLLECT_THREADS * COLLECT_VECTORS * 4;
    // All indices are below LOGITS + grid * tile, which fits.
    for (int start = blockIdx.x * tile; start < LOGITS; start += gridDim.x * tile) {
        u32 keys[COLLECT_VECTORS * 4];
        u32 found = 0;
#pragma unroll
        for (int v = 0; v < COLLECT_VECTORS; ++v) {
            const int i = start + (v * COLLECT_THREADS + threadIdx.x) * 4;
            float4 value = make_float4(0, 0, 0, 0);
            if (WHOLE_VECTORS && i + 3 < LOGITS) value = *(const float4*)&heatmap[i];
            else {
                if (i < LOGITS) value.x = heatmap[i];
                if (i + 1 < LOGITS) value.y = heatmap[i + 1];
                if (i + 2 < LOGITS) value.z = heatmap[i + 2];
                if (!WHOLE_VECTORS && i + 3 < LOGITS) value.w = heatmap[i + 3];
            }
            keys[v * 4] = i < LOGITS ? key_of(value.x) : 0;
            keys[v * 4 + 1] = i + 1 < LOGITS ? key_of(value.y) : 0;
            keys[v * 4 + 2] = i + 2 < LOGITS ? key_of(value.z) : 0;
            keys[v * 4 + 3] = i + 3 < LOGITS ? key_of(value.w) : 0;
        }
#if PEAKS
        for (int j = 0; j < COLLECT_VECTORS * 4; ++j) {
            const int i = start + (j / 4 * COLLECT_THREADS + threadIdx.x) * 4 + j % 4;
            if (is_candidate(keys[j]) && !is_peak(heatmap, i, keys[j])) keys[j] = 0;
        }
#endif
#pragma unroll
        for (int j = 0; j < COLLECT_VECTORS * 4; ++j) found += is_candidate(keys[j]) ? 1 : 0;
        if (!__any_sync(ALL, found != 0)) continue;
        const u32 inclusive = warp_scan(found, lane);
        u32 place = 0;
        if (lane == 31) place = atomicAdd(&counts[COUNT_COLLECTED], inclusive);
        place = __shfl_sync(ALL, place, 31) + inclusive - found;
#pragma unroll
        for (int j = 0; j < COLLECT_VECTORS * 4; ++j) {
            if (!is_candidate(keys[j])) continue;
            const u32 i = (u32)(start + (j / 4 * COLLECT_THREADS + threadIdx.x) * 4 + j % 4);
            first[place++] = ((u64)keys[j] << 32) | (u32)~i;
            atomicAdd(&bins[bin_of(keys[j])], 1u);
        }
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < BINS; bin += COLLECT_THREADS)
        if (bins[bin]) atomicAdd(&histogram[bin], bins[bin]);
}

extern "C" __global__ void __launch_bounds__(PRUNE_THREADS) detect_prune(
    const u64* first, u64* second, u32* counts, const u32* histogram)
{
    __shared__ u32 partial[PRUNE_THREADS / 32];
    __shared__ u32 limit;
    wait_for_previous();
    begin_with_next();
    const int collected = (int)counts[COUNT_COLLECTED];
    if (blockIdx.x * PRUNE_THREADS >= collected) return;
    // Threads take bins from the top; the bin in which the k-th candidate lies is the last that is kept.
    const int per_thread = BINS / PRUNE_THREADS, top = BINS - 1 - threadIdx.x * per_thread;
    u32 own = 0, total;
    for (int j = 0; j < per_thread; ++j) own += histogram[top - j];
    if (threadIdx.x == 0) limit = 0;
    u32 above = block_scan(own, partial, total);
    for (int j = 0; j < per_thread; ++j) {
        const u32 count = histogram[top - j];
        if (above < TOP_K && above + count >= TOP_K) limit = top - j;
        above += count;
    }
    __syncthreads();
    const int lane = threadIdx.x & 31;
    for (int start = blockIdx.x * PRUNE_THREADS; start < collected; start += gridDim.x * PRUNE_THREADS) {
        const int i = start + threadIdx.x;
        const u64 candidate = i < collected ? first[i] : 0;
        const bool kept = i < collected && bin_of((u32)(candidate >> 32)) >= limit;
        const u32 votes = __ballot_sync(ALL, kept);
        if (!votes) continue;
        u32 place = 0;
        if (lane == 0) place = atomicAdd(&counts[COUNT_PRUNED], (u32)__popc(votes));
        place = __shfl_sync(ALL, place, 0) + __popc(votes & ((1u << lane) - 1));
        if (kept) second[place] = candidate;
    }
}

// As runtime.decode.sigmoid: in double precision, rounded once.
__device__ __forceinline__ float sigmoid(float logit) {
    const double x = logit, e = exp(-fabs(x));
    return (float)(x >= 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e));
}

struct Box {
    float value[BOX_COLUMNS];
};

__device__ __forceinline__ Box decode_box(
    int cell, const float* reg, const float* height, const float* dim, const float* rot, const float* vel)
{
    Box box;
    const float x = HAS_OFFSET ? reg[cell] : 0.5f, y = HAS_OFFSET ? reg[CELLS + cell] : 0.5f;
    box.value[0] = ((float)(cell % WIDTH) + x) * STRIDE * SIZE_X + LOWER_X;
    box.value[1] = ((float)(cell / WIDTH) + y) * STRIDE * SIZE_Y + LOWER_Y;
    box.value[2] = height[cell];
    float sine = rot[cell], cosine = rot[CELLS + cell];
    if (Y_AXIS_REFERENCE) {
        const float old = sine;
        sine = -cosine;
        cosine = -old;
    }
    for (int j = 0; j < 3; ++j) {
        const int source = Y_AXIS_REFERENCE && j < 2 ? 1 - j : j;
        const float size = dim[source * CELLS + cell];
        box.value[3 + j] = NORM_BBOX ? (float)exp((double)size) : size;
    }
    box.value[6] = (float)atan2((double)sine, (double)cosine);
    box.value[7] = HAS_VELOCITY ? vel[cell] : 0.0f;
    box.value[8] = HAS_VELOCITY ? vel[CELLS + cell] : 0.0f;
    return box;
}

// A distance equal to the radius suppresses; float32 distances against a float64 radius, as in runtime.nms.
__device__ __forceinline__ bool is_near(float x, float y, float other_x, float other_y) {
    const float dx = other_x - x, dy = other_y - y;
    return !((double)(dx * dx + dy * dy) > MIN_RADIUS);
}

// header: boxes, candidates dropped for a number that is not finite (broken) or for a size of 0 or less (without_size),
// logits above the threshold (candidates).
extern "C" __global__ void __launch_bounds__(FINISH_THREADS) detect_finish(
    const u64* second, u32* counts, u32* histogram, const float* reg, const float* height, const float* dim,
    const float* rot, const float* vel, int* header, float* boxes, float* scores, int* labels)
{
    __shared__ u64 list[SORT];
    __shared__ u32 bins[256];
    __shared__ u32 partial[WARPS];
    __shared__ u64 shared_prefix;
    __shared__ u32 shared_need, shared_size, kept_words[WARPS];
    __shared__ float centre_x[FINISH_THREADS], centre_y[FINISH_THREADS];
    wait_for_previous();
    const int thread = threadIdx.x, lane = thread & 31, warp = thread / 32;
    const int collected = (int)counts[COUNT_COLLECTED], pruned = (int)counts[COUNT_PRUNED];

    // At most SORT candidates, the top k among them.
    int size = pruned;
    if (pruned <= SORT) {
        for (int i = thread; i < pruned; i += FINISH_THREADS) list[i] = second[i];
    } else {
        const u64 limit = kth_largest(second, pruned, bins, partial, &shared_prefix, &shared_need);
        if (thread == 0) shared_size = 0;
        __syncthreads();
        for (int i = thread; i < pruned; i += FINISH_THREADS)
            if (second[i] >= limit) list[atomicAdd(&shared_size, 1u)] = second[i];
        size = TOP_K;
    }
    int power = 32;
    while (power < size) power <<= 1;
    for (int i = size + thread; i < power; i += FINISH_THREADS) list[i] = 0;
    __syncthreads();
    sort_block(list, power);
    const int chosen = min(size, TOP_K);

    // Each thread has a candidate; those that are left move up, in order.
    Box box;
    float score = 0.0f;
    int label = 0;
    bool valid = false, broken = false, flat = false;
    if (thread < chosen) {
        const u64 candidate = list[thread];
        const int i = (int)~(u32)candidate, cell = i % CELLS;
        label = i / CELLS;
        score = sigmoid(logit_of((u32)(candidate >> 32)));
        box = decode_box(cell, reg, height, dim, rot, vel);
        for (int j = 0; j < BOX_COLUMNS; ++j)
            broken = broken || (__float_as_uint(box.value[j]) & 0x7f800000u) == 0x7f800000u;
        const float lower[3] = {RANGE_X0, RANGE_Y0, RANGE_Z0}, upper[3] = {RANGE_X1, RANGE_Y1, RANGE_Z1};
        for (int j = 3; j < 6; ++j) flat = flat || !(box.value[j] > 0.0f);
        flat = flat && !broken;
        valid = !broken && !flat;
        for (int j = 0; j < 3; ++j) valid = valid && box.value[j] >= lower[j] && box.value[j] <= upper[j];
    }
    // Both counts in one sum: there are at most FINISH_THREADS of each.
    u32 num_dropped, num_valid;
    block_scan((broken ? 1u : 0u) | (flat ? 1u << 16 : 0u), partial, num_dropped);
    const u32 place = block_scan(valid ? 1 : 0, partial, num_valid);
    if (valid) {
        centre_x[place] = box.value[0];
        centre_y[place] = box.value[1];
    }
    __syncthreads();

    // NMS by words of 32 candidates in order: `near` has the candidate's neighbours before it in its own word.
    const int words = (int)(num_valid + 31) / 32;
    const bool real = thread < (int)num_valid;
    const float x = real ? centre_x[thread] : 0.0f, y = real ? centre_y[thread] : 0.0f;
    u32 near = 0;
    if (warp < words)
        for (int j = 0; j < 31; ++j) {
            const float other_x = __shfl_sync(ALL, x, j), other_y = __shfl_sync(ALL, y, j);
            if (j < lane && is_near(x, y, other_x, other_y)) near |= 1u << j;
        }
    bool alive = real, keeps = false;
    u32 rank = 0, num_kept = 0;
    for (int word = 0; word < words && num_kept < MAX_BOXES; ++word) {
        u32 touched = 0;
        if (warp == word) {
            u32 open = __ballot_sync(ALL, alive), kept = 0;
            while (open && num_kept + __popc(kept) < MAX_BOXES) {
                const int j = __ffs(open) - 1;
                kept |= 1u << j;
                open &= ~__ballot_sync(ALL, lane == j || (near >> j & 1));
            }
            keeps = kept >> lane & 1;
            rank = num_kept + __popc(kept & ((1u << lane) - 1));
            if (lane == 0) kept_words[word] = kept;
        } else if (warp > word && alive) {
            // Whatever becomes of that word: its candidates near this one.
#pragma unroll 8
            for (int j = 0; j < 32; ++j)
                touched |= is_near(x, y, centre_x[word * 32 + j], centre_y[word * 32 + j]) ? 1u << j : 0;
        }
        __syncthreads();
        const u32 kept = kept_words[word];
        if (touched & kept) alive = false;
        num_kept += __popc(kept);
    }
    __syncthreads();

    // A thread decides for the candidate at its place after moving up; the box is with the thread before that.
    list[thread] = keeps ? rank + 1 : 0;
    __syncthreads();
    const u32 target = valid ? (u32)list[place] : 0;
    if (target) {
        const int row = (int)target - 1;
        for (int j = 0; j < BOX_COLUMNS; ++j) boxes[row * BOX_COLUMNS + j] = box.value[j];
        scores[row] = score;
        labels[row] = label;
    }
    for (int bin = thread; bin < BINS; bin += FINISH_THREADS) histogram[bin] = 0;
    if (thread == 0) {
        header[HEADER_BOXES] = (int)num_kept;
        header[HEADER_BROKEN] = (int)(num_dropped & 0xffffu);
        header[HEADER_CANDIDATES] = collected;
        header[HEADER_WITHOUT_SIZE] = (int)(num_dropped >> 16);
        for (int i = 0; i < NUM_COUNT; ++i) counts[i] = 0;
    }
}
