// All branches of the detection head in one pass over the shared map: for each branch a 1x1 convolution with ReLU on the
// tensor cores, whose result stays in registers as the float16 left operand of the branch's last 1x1 convolution.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.tiling` and `sources`:
//   IN_INT8       element type of the shared map (else float16)
//   CHUNKS        16-byte chunks of its channels
//   HIDDEN        channels between the two convolutions of a branch
//   LAST_TILE     outputs of a branch, rounded up to a multiple of 8
//   BRANCHES, ROWS, STAGES, GROUPS, REGISTERS (of a consumer's thread)
//   TILE_COLUMNS  pixels of a row that one product covers: 64, the M of every wgmma instruction
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
    !defined(ROWS) || !defined(STAGES) || !defined(GROUPS) || !defined(REGISTERS) || !defined(TILE_COLUMNS) || \
    !defined(THREADS) || !defined(SHARED_BYTES) || !defined(ARGUMENT_BYTES)
#error "heads.cu: a compile-time parameter is not defined"
#endif

#define PLANE (ROWS * TILE_COLUMNS * 16)
#define STAGE_BYTES (CHUNKS * PLANE)
#define HIDDEN_BYTES (CHUNKS * HIDDEN * 16)
#define LAST_BYTES (HIDDEN * LAST_TILE * 2)
#define ROW_BYTES (TILE_COLUMNS * 16)

static_assert(TILE_COLUMNS == 64, "the M of wgmma");
static_assert(CHUNKS % 2 == 0 && HIDDEN % 16 == 0 && LAST_TILE % 8 == 0, "whole products");
static_assert(THREADS == GROUPS * 128 + 128, "the consumers and one warpgroup that loads");
static_assert(SHARED_BYTES == BRANCHES * (HIDDEN_BYTES + LAST_BYTES) + GROUPS * STAGES * STAGE_BYTES,
              "the host allocates what is used");
static_assert(GROUPS * 128 * REGISTERS + 128 * 24 <= 65536 && REGISTERS % 8 == 0, "registers of a multiprocessor");

#if IN_INT8
typedef int Accumulator;
#else
typedef float Accumulator;
#endif

struct Heads {
    const char* input;          // blocked and padded
    const char* hidden;         // packed
    const char* last;           // packed
    const float4* affine;       // (scale, bias) of two hidden channels each, by branch
    const float* bias;          // [branch][LAST_TILE]
    float* outputs[BRANCHES];   // (channels, height, width)
    int channels[BRANCHES];
    int in_pitch;
    long long in_plane;
    int height, width, tiles_x, tiles;
};

static_assert(sizeof(Heads) == ARGUMENT_BYTES, "the host's structure is this one");

extern "C" __global__ void __launch_bounds__(THREADS, 1) heads(const __grid_constant__ Heads g)
{
    extern __shared__ __align__(128) char memory[];
    __shared__ __align__(8) u64 barriers[GROUPS * STAGES * 2 + 1];
    const u32 hidden = shared_address(memory), last = hidden + BRANCHES * HIDDEN_BYTES;
    const u32 rings = last + BRANCHES * LAST_BYTES;
    const u32 full = shared_address(barriers), empty = full + GROUPS * STAGES * 8, loaded = empty + GROUPS * STAGES * 8;
    const int warpgroup = threadIdx.x / 128;
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

    if (warpgroup == GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        const int group = threadIdx.x / 32 - GROUPS * 4, lane = threadIdx.x % 32;
        if (group >= GROUPS) return;
        if (group == 0 && lane == 0) {
            barrier_expect(loaded, BRANCHES * (HIDDEN_BYTES + LAST_BYTES));
            bulk_load(hidden, g.hidden, BRANCHES * HIDDEN_BYTES, loaded);
            bulk_load(last, g.last, BRANCHES * LAST_BYTES, loaded);
        }
        wait_for_previous();
        int stage = 0;
        u32 parity = 1;
        for (int tile = blockIdx.x * GROUPS + group; tile < g.tiles; tile += gridDim.x * GROUPS) {
            const int y = tile / g.tiles_x * ROWS, x = tile % g.tiles_x * TILE_COLUMNS;
            const u32 barrier = full + (group * STAGES + stage) * 8;
            const u32 target = rings + (group * STAGES + stage) * STAGE_BYTES;
            barrier_wait(empty + (group * STAGES + stage) * 8, parity);
            if (lane == 0) barrier_expect(barrier, STAGE_BYTES);
            __syncwarp();
            for (int copy = lane; copy < CHUNKS * ROWS; copy += 32) {
                const int chunk = copy / ROWS, row = copy % ROWS;
                bulk_load(target + chunk * PLANE + row * ROW_BYTES,
                          g.input + chunk * g.in_plane + ((long long)(y + 1 + row) * g.in_pitch + x + 1) * 16, ROW_BYTES, barrier);
            }
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    const int group = warpgroup, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, quad = lane & 3;
    barrier_wait(loaded, 0);
    int stage = 0;
    u32 parity = 0;
    for (int tile = blockIdx.x * GROUPS + group; tile < g.tiles; tile += gridDim.x * GROUPS) {
        const u32 source = rings + (group * STAGES + stage) * STAGE_BYTES;
        barrier_wait(full + (group * STAGES + stage) * 8, parity);
        const int y0 = tile / g.tiles_x * ROWS, x0 = tile % g.tiles_x * TILE_COLUMNS + warp * 16 + (lane >> 2);
        const int pixel = y0 * g.width + x0;
        const bool inside[2] = {x0 < g.width, x0 + 8 < g.width};
#pragma unroll 1
        for (int branch = 0; branch < BRANCHES; ++branch) {
            Accumulator sums[ROWS][HIDDEN / 2];
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < CHUNKS / 2; ++step) {
                const u64 b = matrix_descriptor(hidden + branch * HIDDEN_BYTES + step * 2 * HIDDEN * 16, HIDDEN * 16, 128);
#pragma unroll
                for (int row = 0; row < ROWS; ++row)
                    multiply(sums[row], matrix_descriptor(source + step * 2 * PLANE + row * ROW_BYTES, PLANE, 128), b, step > 0);
            }
            wgmma_commit();
            // While the product runs: what its result is scaled by.
            const float4* affine = g.affine + branch * (HIDDEN / 2) + quad;
            float4 pairs[HIDDEN / 8];
#pragma unroll
            for (int j = 0; j < HIDDEN / 8; ++j) pairs[j] = __ldg(affine + j * 4);
            const int channels = g.channels[branch];
            float* output = g.outputs[branch] + pixel;
            float bias[LAST_TILE / 4];
#pragma unroll
            for (int i = 0; i < LAST_TILE / 4; ++i)
                bias[i] = __ldg(g.bias + branch * LAST_TILE + i / 2 * 8 + quad * 2 + i % 2);
            wgmma_wait<0>();
            u32 left[ROWS][HIDDEN / 16][4];
#pragma unroll
            for (int row = 0; row < ROWS; ++row)
#pragma unroll
                for (int j = 0; j < HIDDEN / 8; ++j)
#pragma unroll
                    for (int half = 0; half < 2; ++half)
                        left[row][j / 2][j % 2 * 2 + half] = pack_halves_relu(
                            fmaf((float)sums[row][j * 4 + half * 2], pairs[j].x, pairs[j].y),
                            fmaf((float)sums[row][j * 4 + half * 2 + 1], pairs[j].z, pairs[j].w));
            float results[ROWS][LAST_TILE / 2];
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < HIDDEN / 16; ++step)
#pragma unroll
                for (int row = 0; row < ROWS; ++row)
                    multiply_last(results[row], left[row][step],
                                  matrix_descriptor(last + branch * LAST_BYTES + step * 2 * LAST_TILE * 16, LAST_TILE * 16, 128),
                                  step > 0);
            wgmma_commit();
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < LAST_TILE / 4; ++i) {
                const int channel = i / 2 * 8 + quad * 2 + i % 2;
                if (channel < channels) {
                    float* target = output + (long long)channel * g.height * g.width;
#pragma unroll
                    for (int row = 0; row < ROWS; ++row)
#pragma unroll
                        for (int half = 0; half < 2; ++half)
                            if (inside[half] && y0 + row < g.height)
                                target[row * g.width + half * 8] = results[row][i / 2 * 4 + half * 2 + i % 2] + bias[i];
                }
            }
        }
        if (lane == 0) barrier_arrive(empty + (group * STAGES + stage) * 8);
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
    }
}
