// All branches of the detection head in one pass over the shared map: for each branch a 1x1 convolution with ReLU on the
// tensor cores, whose result stays in registers as the float16 left operand of the branch's last 1x1 convolution.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.tiling` and `sources`:
//   IN_INT8       element type of the shared map (else float16)
//   CHUNKS        16-byte chunks of its channels
//   HIDDEN        channels between the two convolutions of a branch
//   LAST_TILE     outputs of a branch, rounded up to a multiple of 8
//   BRANCHES, STAGES, GROUPS, REGISTERS (of a consumer's thread)
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

static_assert(CHUNKS % 2 == 0 && HIDDEN % 16 == 0 && LAST_TILE % 8 == 0, "whole products");
static_assert(BLOCKS <= 2, "turns of two");
static_assert(THREADS == GROUPS * 128 + 128, "the consumers and one warpgroup that loads");
static_assert(SHARED_BYTES == BRANCHES * (HIDDEN_BYTES + LAST_BYTES + SCALE_BYTES) + GROUPS * STAGES * STAGE_BYTES,
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

// Scale, bias and ReLU, and the result as the left operand of the branch's last product.
__device__ __forceinline__ void activate(
    u32 (&left)[HIDDEN / 16][4], const Accumulator (&sums)[HIDDEN / 2], u32 scales, int branch, int quad)
{
    const u32 pairs = scales + branch * (HIDDEN * 8) + quad * 16;
#pragma unroll
    for (int j = 0; j < HIDDEN / 8; ++j) {
        const float4 pair = shared_float4(pairs + j * 64);
#pragma unroll
        for (int half = 0; half < 2; ++half)
            left[j / 2][j % 2 * 2 + half] = pack_halves_relu(fmaf((float)sums[j * 4 + half * 2], pair.x, pair.y),
                                                             fmaf((float)sums[j * 4 + half * 2 + 1], pair.z, pair.w));
    }
}

// The last product of a branch, small enough for each warp's own instructions: its 16 pixels of a block.
__device__ __forceinline__ void multiply_branch(
    float (&results)[LAST_TILE / 8][4], const u32 (&left)[HIDDEN / 16][4], u32 last, int branch, int lane)
{
    const u32 mine = last + branch * LAST_BYTES + ((lane / 8 & 1) * LAST_TILE + lane % 8) * 16;
#pragma unroll
    for (int tile = 0; tile < LAST_TILE / 8; ++tile)
#pragma unroll
        for (int step = 0; step < HIDDEN / 16; ++step) {
            u32 right[2];
            load_two_matrices(right, mine + (step * 2 * LAST_TILE + tile * 8) * 16);
            multiply_warp(results[tile], left[step], right, step > 0);
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
    __shared__ __align__(8) u64 barriers[GROUPS * STAGES * 2 + 1];
    const u32 hidden = shared_address(memory), last = hidden + BRANCHES * HIDDEN_BYTES;
    const u32 scales = last + BRANCHES * LAST_BYTES, rings = scales + BRANCHES * SCALE_BYTES;
    const u32 full = shared_address(barriers), empty = full + GROUPS * STAGES * 8, loaded = empty + GROUPS * STAGES * 8;
    const int warpgroup = uniform(threadIdx.x / 128);
    // Tiles go round the blocks before a block's next group gets one: the last ones are on as many multiprocessors as can be.
    const int group = warpgroup == GROUPS ? uniform(threadIdx.x / 32) - GROUPS * 4 : warpgroup;
    int item = blockIdx.x + gridDim.x * group;
    const u32 guess = guess_tile(g.tiles, item);
    const TileCounts counts = count_tiles(g.tiles);
    if (threadIdx.x == 0) {
        for (int i = 0; i < GROUPS * STAGES; ++i) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, 4);
        }
        barrier_init(loaded, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    begin_with_next();

    const int tiles = counts.front + counts.back;
    // Nothing to do: no weights either. The kernel still ends after the one before it.
    if (blockIdx.x >= tiles) {
        wait_for_previous();
        return;
    }

    if (warpgroup == GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        // One thread for each group: an instruction loads a whole tile.
        if (group >= GROUPS || threadIdx.x % 32 > 0) return;
        if (group == 0) {
            barrier_expect(loaded, BRANCHES * (HIDDEN_BYTES + LAST_BYTES + SCALE_BYTES));
            bulk_load(hidden, g.hidden, BRANCHES * HIDDEN_BYTES, loaded);
            bulk_load(last, g.last, BRANCHES * LAST_BYTES, loaded);
            bulk_load(scales, g.affine, BRANCHES * SCALE_BYTES, loaded);
        }
        int stage = 0;
        u32 parity = 1, next = item < tiles ? first_tile(g.tiles, counts, item, guess) : 0;
        wait_for_previous();
        for (; item < tiles; item += gridDim.x * GROUPS) {
            const int y = tile_row(next) * TILE_ROWS, x = tile_column(next) * TILE_COLUMNS;
            // Read ahead: a list lies in device memory.
            if (item + gridDim.x * GROUPS < tiles) next = tile_at(g.tiles, counts, item + gridDim.x * GROUPS);
            const u32 barrier = full + (group * STAGES + stage) * 8;
            const u32 target = rings + (group * STAGES + stage) * STAGE_BYTES;
            barrier_wait(empty + (group * STAGES + stage) * 8, parity);
            barrier_expect(barrier, STAGE_BYTES);
            box_load(target, input, x + 1, y + 1, 0, barrier);
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    const int warp = uniform(threadIdx.x / 32 % 4), lane = threadIdx.x % 32, quad = lane & 3;
    int stage = 0;
    u32 parity = 0, next = item < tiles ? first_tile(g.tiles, counts, item, guess) : 0;
    barrier_wait(loaded, 0);
    for (; item < tiles; item += gridDim.x * GROUPS) {
        const u32 tile = next;
        if (item + gridDim.x * GROUPS < tiles) next = tile_at(g.tiles, counts, item + gridDim.x * GROUPS);
        const u32 source = rings + (group * STAGES + stage) * STAGE_BYTES;
        barrier_wait(full + (group * STAGES + stage) * 8, parity);
        const int y0 = tile_row(tile) * TILE_ROWS + first_row(warp);
        const int x0 = tile_column(tile) * TILE_COLUMNS + first_column(warp, lane);
        // Where this thread's first pixel lies in a channel, and which of its pixels are in the map: the same for all branches.
        const int place = y0 * g.width + x0;
        bool inside[BLOCKS][2];
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                inside[block][half] = y0 + rows_to(block, half) < g.height && x0 + columns_to(block, half) < g.width;
        // Blocks take turns: while one block's sums become results, the tensor cores work on the other's.
        Accumulator sums[BLOCKS][HIDDEN / 2];
        wgmma_fence();
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
            multiply_hidden(sums[block], source, hidden, block);
            wgmma_commit();
        }
#pragma unroll
        for (int branch = 0; branch < BRANCHES; ++branch)
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block) {
                if (branch < BRANCHES - 1 || block == 0) wgmma_wait<BLOCKS - 1>(); else wgmma_wait<0>();
                u32 left[HIDDEN / 16][4];
                activate(left, sums[block], scales, branch, quad);
                if (branch < BRANCHES - 1) {
                    wgmma_fence();
                    multiply_hidden(sums[block], source, hidden + (branch + 1) * HIDDEN_BYTES, block);
                    wgmma_commit();
                }
                float results[LAST_TILE / 8][4];
                multiply_branch(results, left, last, branch, lane);
                store_results(results, g, branch, block, place, inside[block], quad);
            }
        // No product reads the map's pixels any more.
        if (lane == 0) barrier_arrive(empty + (group * STAGES + stage) * 8);
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
    }
}
