// All branches of the detection head in one pass over the shared map: for each branch a 1x1 convolution with ReLU on the
// tensor cores, whose result stays in registers as the float16 left operand of the branch's last 1x1 convolution.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.tiling` and `sources`:
//   IN_INT8       element type of the shared map (else float16)
//   CHUNKS        16-byte chunks of its channels
//   HIDDEN        channels between the two convolutions of a branch
//   LAST_TILE     outputs of a branch, rounded up to a multiple of 8
//   BRANCHES, STAGES, GROUPS (of consumers, which share the branches), REGISTERS (of a consumer's thread)
//   BLOCKS        blocks of 64 pixels of a tile, ACROSS of them side by side; BLOCK_ROWS: 1 (of 64 pixels) or 8 (of 8)
//   THREADS, SHARED_BYTES, ARGUMENT_BYTES   of a launch, and of `Heads`, as the host has them
// Hidden weights are packed [branch][chunk][HIDDEN][16 bytes], last ones [branch][chunk of 8][LAST_TILE][8 float16].
//
// Constraints (what the compiler can see is asserted below):
//   compute capability  9.0 alone, as sm_90a
//   channels            of the shared map a multiple of 32 (INT8) or 16 (float16); HIDDEN a multiple of 16, the same for
//                       all branches
//   launch              THREADS threads and SHARED_BYTES of dynamic shared memory; at most a block a multiprocessor
//   alignment           the map, weights and affine to 16 bytes; the map as in hopper.cuh, with room behind the last row
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only layers          on a GPU, against exact arithmetic
//   python -m pytest tests/runtime/test_cuda_engine_network.py     addressing without one, and that nvcc compiles it

#if !defined(IN_INT8) || !defined(CHUNKS) || !defined(HIDDEN) || !defined(LAST_TILE) || !defined(BRANCHES) || \
    !defined(BLOCKS) || !defined(ACROSS) || !defined(BLOCK_ROWS) || !defined(STAGES) || !defined(GROUPS) || \
    !defined(REGISTERS) || !defined(THREADS) || !defined(SHARED_BYTES) || !defined(ARGUMENT_BYTES)
#error "heads.cu: a compile-time parameter is not defined"
#endif

#define TILE_ROWS (BLOCKS / ACROSS * BLOCK_ROWS)
#define TILE_COLUMNS (ACROSS * BLOCK_COLUMNS)
#define PLANE (TILE_ROWS * TILE_COLUMNS * 16)
#define STAGE_BYTES (CHUNKS * PLANE)
#define HIDDEN_BYTES (CHUNKS * HIDDEN * 16)
#define LAST_BYTES (HIDDEN * LAST_TILE * 2)
#define SCALE_BYTES (HIDDEN * 8)
#define ROW_BYTES (TILE_COLUMNS * 16)
#define SLOTS ((BRANCHES + GROUPS - 1) / GROUPS)  // branches of a group
#define TURNS (SLOTS * BLOCKS)
// What a thread has room for beside its sums, its left operand and places: scales of all its branches, their last weights too.
#define ROOM (REGISTERS - BLOCKS * HIDDEN / 2 - HIDDEN / 4 - 36)
#define SCALES (SLOTS * HIDDEN / (IN_INT8 ? 2 : 4))
#define HOLDS_SCALES (SCALES <= ROOM)
#define HOLDS_LAST (SCALES + SLOTS * HIDDEN * LAST_TILE / 64 <= ROOM)

static_assert(CHUNKS % 2 == 0 && HIDDEN % 16 == 0 && LAST_TILE % 8 == 0, "whole products");
static_assert(THREADS == GROUPS * 128 + 128, "the consumers and one warpgroup that loads");
static_assert(SHARED_BYTES == BRANCHES * (HIDDEN_BYTES + LAST_BYTES + SCALE_BYTES) + STAGES * STAGE_BYTES,
              "the host allocates what is used");
static_assert(GROUPS * 128 * REGISTERS + 128 * 24 <= 65536 && REGISTERS % 8 == 0, "registers of a multiprocessor");

#if IN_INT8
typedef int Accumulator;
#else
typedef float Accumulator;
#endif

struct Heads {
    const char* hidden;         // packed
    const char* last;           // packed
    const float4* affine;       // (scale, bias) of two hidden channels each, by branch
    const float* bias;          // [branch][LAST_TILE]
    float* outputs[BRANCHES];   // (channels, height, width)
    int channels[BRANCHES];
    Tiles tiles;
    int height, width;
};

static_assert(sizeof(Heads) == ARGUMENT_BYTES, "the host's structure is this one");

// Bytes from a tile's first pixel to a block's.
__device__ __forceinline__ constexpr u32 block_offset(int block)
{
    return block / ACROSS * BLOCK_ROWS * ROW_BYTES + block % ACROSS * BLOCK_COLUMNS * 16;
}

// The first product of a branch: a block's pixels by the branch's weights.
__device__ __forceinline__ void multiply_hidden(Accumulator (&sums)[HIDDEN / 2], u32 source, u32 weights, int block)
{
    const u32 left = operand_base(source, PLANE), right = operand_base(weights, HIDDEN * 16);
#pragma unroll
    for (int step = 0; step < CHUNKS / 2; ++step)
        multiply(sums, operand_at(left, step * 2 * PLANE + block_offset(block), BLOCK_ROWS == 1 ? 128 : ROW_BYTES),
                 operand_at(right, step * 2 * HIDDEN * 16, 128), step > 0);
}

// What a thread's two columns of each eight are multiplied by and what is added: of float16 only the latter.
struct Scales {
    float4 pairs[IN_INT8 ? HIDDEN / 8 : 1];
    float2 biases[IN_INT8 ? 1 : HIDDEN / 8];
};

__device__ __forceinline__ void load_scales(Scales& scales, u32 address, int branch, int quad)
{
    const u32 mine = address + branch * SCALE_BYTES + quad * 16;
#pragma unroll
    for (int j = 0; j < HIDDEN / 8; ++j) {
        const float4 pair = shared_float4(mine + j * 64);
        if (IN_INT8) scales.pairs[j] = pair;
        else scales.biases[j] = make_float2(pair.y, pair.w);
    }
}

// Scale, bias and ReLU, and the result as the left operand of the branch's last product.
__device__ __forceinline__ void activate(
    u32 (&left)[HIDDEN / 16][4], const Accumulator (&sums)[HIDDEN / 2], const Scales& scales)
{
#pragma unroll
    for (int j = 0; j < HIDDEN / 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float low = (float)sums[j * 4 + half * 2], high = (float)sums[j * 4 + half * 2 + 1];
            left[j / 2][j % 2 * 2 + half] = IN_INT8
                ? pack_halves_relu(fmaf(low, scales.pairs[j].x, scales.pairs[j].y), fmaf(high, scales.pairs[j].z, scales.pairs[j].w))
                : pack_halves_relu(low + scales.biases[j].x, high + scales.biases[j].y);
        }
}

// The last product of a branch, small enough for each warp's own instructions: its 16 pixels of a block.
struct Last {
    u32 matrices[LAST_TILE / 8][HIDDEN / 16][2];
};

__device__ __forceinline__ void load_last(Last& right, u32 address, int branch, int lane)
{
    const u32 mine = address + branch * LAST_BYTES + ((lane / 8 & 1) * LAST_TILE + lane % 8) * 16;
#pragma unroll
    for (int tile = 0; tile < LAST_TILE / 8; ++tile)
#pragma unroll
        for (int step = 0; step < HIDDEN / 16; ++step)
            load_two_matrices(right.matrices[tile][step], mine + (step * 2 * LAST_TILE + tile * 8) * 16);
}

__device__ __forceinline__ void multiply_last(
    float (&results)[LAST_TILE / 8][4], const u32 (&left)[HIDDEN / 16][4], const Last& right)
{
    // Two sums, so that half as many products wait for each other.
    float odd[LAST_TILE / 8][4] = {};
#pragma unroll
    for (int tile = 0; tile < LAST_TILE / 8; ++tile) {
#pragma unroll
        for (int step = 0; step < HIDDEN / 16; ++step)
            multiply_warp(step % 2 ? odd[tile] : results[tile], left[step], right.matrices[tile][step], step > 1);
#pragma unroll
        for (int i = 0; i < 4; ++i) results[tile][i] += odd[tile][i];
    }
}

// A block's results of a branch: `place` of this thread's first pixel in a channel, and which of the block's are in the map.
__device__ __forceinline__ void store_results(
    const float (&results)[LAST_TILE / 8][4], const Heads& g, int branch, int block, int place, const bool (&inside)[2],
    int quad)
{
    const int plane = g.height * g.width, channels = g.channels[branch];
    float* output = g.outputs[branch];
#pragma unroll
    for (int i = 0; i < LAST_TILE / 4; ++i) {
        const int channel = i / 2 * 8 + quad * 2 + i % 2;
        const float bias = __ldg(g.bias + branch * LAST_TILE + channel);
        float* target = output + (long long)channel * plane + place;
#pragma unroll
        for (int half = 0; half < 2; ++half)
            store_if(inside[half] && channel < channels, target + (rows_to(block, half) * g.width + columns_to(block, half)),
                     __float_as_uint(results[i / 2][half * 2 + i % 2] + bias));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) heads(
    const __grid_constant__ TensorMap input, const __grid_constant__ Heads g)
{
    extern __shared__ __align__(128) char memory[];
    __shared__ __align__(8) u64 barriers[STAGES * 2 + 1];
    const u32 hidden = shared_address(memory), last = hidden + BRANCHES * HIDDEN_BYTES;
    const u32 scales = last + BRANCHES * LAST_BYTES, ring = scales + BRANCHES * SCALE_BYTES;
    const u32 full = shared_address(barriers), empty = full + STAGES * 8, loaded = empty + STAGES * 8;
    const int group = uniform(threadIdx.x / 128);
    begin_with_next();
    const TileCounts counts = count_tiles(g.tiles);
    const u32 guess = guess_tile(g.tiles, blockIdx.x);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, GROUPS * 4);
        }
        barrier_init(loaded, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();

    const int tiles = counts.front + counts.back;
    int item = blockIdx.x, stage = 0;
    // Nothing to do: no weights either, and room for the next kernel. This one still ends after the one before it.
    if (item >= tiles) {
        if (blockIdx.x == 0) wait_for_previous();
        return;
    }
    u32 next = first_tile(g.tiles, counts, item, guess);

    if (group == GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x != GROUPS * 128) return;  // one thread: an instruction loads a whole tile
        barrier_expect(loaded, BRANCHES * (HIDDEN_BYTES + LAST_BYTES + SCALE_BYTES));
        bulk_load(hidden, g.hidden, BRANCHES * HIDDEN_BYTES, loaded);
        bulk_load(last, g.last, BRANCHES * LAST_BYTES, loaded);
        bulk_load(scales, g.affine, BRANCHES * SCALE_BYTES, loaded);
        u32 parity = 1;
        wait_for_previous();
        for (; item < tiles; item += gridDim.x) {
            const int y = tile_row(next) * TILE_ROWS, x = tile_column(next) * TILE_COLUMNS;
            // Read ahead: a list lies in device memory.
            if (item + gridDim.x < tiles) next = tile_at(g.tiles, counts, item + gridDim.x);
            barrier_wait(empty + stage * 8, parity);
            barrier_expect(full + stage * 8, STAGE_BYTES);
            box_load(ring + stage * STAGE_BYTES, input, x + 1, y + 1, 0, full + stage * 8);
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    const int warp = uniform(threadIdx.x / 32 % 4), lane = threadIdx.x % 32, quad = lane & 3;
    // Groups share a tile: each has branches of its own, whose scales and weights stay in its registers. Where branches do not
    // go round, the last one is computed twice, to the same numbers.
    int branches[SLOTS];
    Scales held_scales[SLOTS];
    Last held_last[SLOTS];
    barrier_wait(loaded, 0);
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        branches[slot] = min(group * SLOTS + slot, BRANCHES - 1);
        if (HOLDS_SCALES) load_scales(held_scales[slot], scales, branches[slot], quad);
        if (HOLDS_LAST) load_last(held_last[slot], last, branches[slot], lane);
    }
    u32 parity = 0;
    for (; item < tiles; item += gridDim.x) {
        const u32 tile = next, source = ring + stage * STAGE_BYTES;
        if (item + gridDim.x < tiles) next = tile_at(g.tiles, counts, item + gridDim.x);
        const int y = tile_row(tile) * TILE_ROWS + first_row(warp);
        const int x = tile_column(tile) * TILE_COLUMNS + first_column(warp, lane);
        // Where this thread's first pixel lies in a channel, and which of its pixels are in the map: the same for all branches.
        const int place = y * g.width + x;
        bool inside[BLOCKS][2];
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                inside[block][half] = y + rows_to(block, half) < g.height && x + columns_to(block, half) < g.width;
        barrier_wait(full + stage * 8, parity);
        // Blocks take turns: while one block's sums become results, the tensor cores work on the other's.
        Accumulator sums[BLOCKS][HIDDEN / 2];
        float results[LAST_TILE / 8][4];
        wgmma_fence();
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
            multiply_hidden(sums[block], source, hidden + branches[0] * HIDDEN_BYTES, block);
            wgmma_commit();
        }
#pragma unroll
        for (int turn = 0; turn < TURNS; ++turn) {
            const int slot = turn / BLOCKS, block = turn % BLOCKS, branch = branches[slot];
            if (turn + BLOCKS <= TURNS) wgmma_wait<BLOCKS - 1>(); else wgmma_wait<0>();
            u32 left[HIDDEN / 16][4];
            if (!HOLDS_SCALES) load_scales(held_scales[slot], scales, branch, quad);
            activate(left, sums[block], held_scales[slot]);
            if (slot + 1 < SLOTS) {
                wgmma_fence();
                multiply_hidden(sums[block], source, hidden + branches[slot + 1] * HIDDEN_BYTES, block);
                wgmma_commit();
            } else if (block == BLOCKS - 1 && lane == 0) {
                barrier_arrive(empty + stage * 8);  // no product reads the map's pixels any more
            }
            if (!HOLDS_LAST) load_last(held_last[slot], last, branch, lane);
            // What the turn before has found is there by now.
            const int past = turn - 1;
            if (turn > 0) store_results(results, g, branches[past / BLOCKS], past % BLOCKS, place, inside[past % BLOCKS], quad);
            multiply_last(results, left, held_last[slot]);
        }
        store_results(results, g, branches[SLOTS - 1], BLOCKS - 1, place, inside[BLOCKS - 1], quad);
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
    }
}
