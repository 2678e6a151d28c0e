// One convolution as an implicit matrix product on Hopper's tensor cores, persistent and warp-specialized.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.tiling` and `sources`:
//   IN_INT8, OUT_INT8   element types of the maps (else float16); accumulators are int32 or float32
//   OUT_DENSE           the target is an output: [channel][height][width] float32, of any number of channels
//   N_TILE              output columns of a tile; a column is a channel, or (j, channel) of a transposed convolution
//   KERNEL, STRIDE, PADDING, UPSAMPLE
//   SLAB_CHUNKS, SLABS  16-byte chunks of input channels in a stage, and stages along K
//   GROUPS, WARPGROUPS  consumer groups, each with tiles and a ring of stages of its own, and warpgroups in a group
//   ROWS                output rows of 64 pixels for each warpgroup
//   STAGES              stages in a ring
//   RESIDENT            weights of the block's columns stay in shared memory; else each stage brings its own
//   RELU
//   REGISTERS           of a consumer's thread
//   TILE_COLUMNS        pixels of a row that one product covers: 64, the M of every wgmma instruction
//   THREADS, SHARED_BYTES, ARGUMENT_BYTES   of a launch, and of `Geometry`, as the host has them
// Work: tiles of (WARPGROUPS * ROWS) x 64 pixels by N_TILE columns. With one warpgroup to a group, one group's epilogue
// runs while the other group computes.
//
// Weights are packed [column tile][slab][tap][chunk][column][16 bytes], (scale, bias) pairs [column].
// Columns of an INT8 target are permuted within 16 such that a thread holds four neighbouring channels.
//
// Constraints (what the compiler can see is asserted below):
//   compute capability  9.0 alone, as sm_90a: wgmma, setmaxnreg, bulk copies
//   channels            inputs a multiple of 32 (INT8) or 16 (float16); N_TILE a multiple of 16, at most 128
//   launch              THREADS threads and SHARED_BYTES of dynamic shared memory; with RESIDENT, whole sets of
//                       column_tiles blocks; at most a block a multiprocessor
//   alignment           maps, weights and affine to 16 bytes; maps as in hopper.cuh, with room behind the last row for a
//                       whole tile (`DeviceMap.allocate`)
//   sizes               a map below 4 GB: offsets of its stores are 32 bits wide
//   border              zero, and never written
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only layers          on a GPU, against exact arithmetic
//   python -m pytest tests/runtime/test_cuda_engine_network.py     addressing without one, and that nvcc compiles it

#if !defined(IN_INT8) || !defined(OUT_INT8) || !defined(OUT_DENSE) || !defined(N_TILE) || !defined(KERNEL) || !defined(STRIDE) || \
    !defined(PADDING) || !defined(UPSAMPLE) || !defined(SLAB_CHUNKS) || !defined(SLABS) || !defined(GROUPS) || \
    !defined(WARPGROUPS) || !defined(ROWS) || !defined(STAGES) || !defined(RESIDENT) || !defined(RELU) || \
    !defined(REGISTERS) || !defined(TILE_COLUMNS) || !defined(THREADS) || !defined(SHARED_BYTES) || \
    !defined(ARGUMENT_BYTES)
#error "conv.cu: a compile-time parameter is not defined"
#endif

#define TAPS (KERNEL * KERNEL)
#define TILE_ROWS (WARPGROUPS * ROWS)
#define IN_ROWS ((TILE_ROWS - 1) * STRIDE + KERNEL)
#define IN_COLS ((TILE_COLUMNS - 1) * STRIDE + KERNEL)
#define PLANE (IN_ROWS * IN_COLS * 16)
#define IN_BYTES (SLAB_CHUNKS * PLANE)
#define SLAB_WEIGHT_BYTES (TAPS * SLAB_CHUNKS * N_TILE * 16)
#define STAGE_BYTES (IN_BYTES + (RESIDENT ? 0 : SLAB_WEIGHT_BYTES))
#define STAGE_PITCH ((STAGE_BYTES + 127) / 128 * 128)
#define RESIDENT_BYTES (RESIDENT ? SLABS * SLAB_WEIGHT_BYTES : 0)
#define CONSUMERS (GROUPS * WARPGROUPS)
#define TILE_CHANNELS (N_TILE / UPSAMPLE)  // channels of a tile's columns
#define OUT_CHUNK (OUT_INT8 ? 16 : 8)

static_assert(TILE_COLUMNS == 64, "the M of wgmma");
static_assert(N_TILE % 16 == 0 && N_TILE <= 128 && N_TILE % UPSAMPLE == 0, "columns of a product");
static_assert(TILE_CHANNELS % OUT_CHUNK == 0, "a tile's columns fill chunks of the target");
static_assert(!OUT_DENSE || (UPSAMPLE == 1 && !OUT_INT8), "an output is written by a convolution, in float32");
static_assert(SLAB_CHUNKS % 2 == 0, "K of an instruction is two chunks");
static_assert(UPSAMPLE == 1 || UPSAMPLE % 2 == 0, "a transposed convolution stores pairs of pixels");
static_assert(STRIDE == 1 || STRIDE == 2, "what the loads are written for");
static_assert(STAGES >= 2, "a stage is filled while another is read");
static_assert(THREADS == CONSUMERS * 128 + 128, "the consumers and one warpgroup that loads");
static_assert(SHARED_BYTES == RESIDENT_BYTES + GROUPS * STAGES * STAGE_PITCH, "the host allocates what is used");
static_assert(CONSUMERS * 128 * REGISTERS + 128 * 24 <= 65536 && REGISTERS % 8 == 0, "registers of a multiprocessor");

#if IN_INT8
typedef int Accumulator;
#else
typedef float Accumulator;
#endif

struct Geometry {
    const char* input;      // blocked and padded
    char* output;           // at the first chunk that the layer writes, or an output's first number
    const char* weights;    // packed
    const float4* affine;   // (scale, bias) of two columns each
    int in_pitch;           // pixels of a padded row; of an output's row without padding
    int out_pitch;
    long long in_plane;     // bytes of a plane: a chunk's, or a channel's of an output
    long long out_plane;
    int height, width;      // output pixels before upsampling
    int tiles_x, tiles;     // tiles of pixels: in a row, in all
    int column_tiles;
    int channels;           // that the layer writes
};

static_assert(sizeof(Geometry) == ARGUMENT_BYTES, "the host's structure is this one");

// (scale, bias) of the columns that make one word of a thread: four codes of an INT8 map or two halves.
struct Affine {
    float4 low, high;
};

__device__ __forceinline__ Affine load_affine(const float4* affine, int j)
{
    Affine pairs;
    pairs.low = __ldg(affine + j * 4);
    if (OUT_INT8) pairs.high = __ldg(affine + j * 4 + 4);
    return pairs;
}

#if !OUT_DENSE
__device__ __forceinline__ u32 word(const Accumulator (&sums)[N_TILE / 2], int j, int half, const Affine& pairs)
{
    float v0 = fmaf((float)sums[j * 4 + half * 2], pairs.low.x, pairs.low.y);
    float v1 = fmaf((float)sums[j * 4 + half * 2 + 1], pairs.low.z, pairs.low.w);
#if OUT_INT8
    float v2 = fmaf((float)sums[j * 4 + 4 + half * 2], pairs.high.x, pairs.high.y);
    float v3 = fmaf((float)sums[j * 4 + 4 + half * 2 + 1], pairs.high.z, pairs.high.w);
    if (RELU) { v0 = fmaxf(v0, 0.f); v1 = fmaxf(v1, 0.f); v2 = fmaxf(v2, 0.f); v3 = fmaxf(v3, 0.f); }
    return pack_codes(__float2int_rn(v0), __float2int_rn(v1), __float2int_rn(v2), __float2int_rn(v3));
#else
    return RELU ? pack_halves_relu(v0, v1) : pack_halves(v0, v1);
#endif
}
#endif

// Writes a warpgroup's rows. A thread has pixels x and x + 8 of each row; a warp's store is eight pixels of 16 bytes.
// Offsets are 32 bits wide: a map is smaller than 4 GB.
__device__ __forceinline__ void store_tile(
    const Accumulator (&sums)[ROWS][N_TILE / 2], const Geometry& g, int y0, int x0, int column_tile, int warp, int lane)
{
    const int quad = lane & 3, x = x0 + warp * 16 + (lane >> 2);
    // A transposed convolution's column tile is (i, block of channels) with every j inside.
    const int blocks = g.column_tiles / UPSAMPLE;
    const int first = column_tile % blocks * TILE_CHANNELS / OUT_CHUNK;
    const float4* affine = g.affine + (column_tile * N_TILE) / 2 + quad;
#if OUT_DENSE
    const bool inside[2] = {x < g.width, x + 8 < g.width};
#pragma unroll
    for (int j = 0; j < N_TILE / 8; ++j) {
        const float4 pairs = __ldg(affine + j * 4);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int channel = first * OUT_CHUNK + j * 8 + quad * 2 + i;
            if (channel >= g.channels) continue;
            float* target = (float*)(g.output + channel * g.out_plane) + (long long)y0 * g.out_pitch + x;
            const float scale = i ? pairs.z : pairs.x, bias = i ? pairs.w : pairs.y;
#pragma unroll
            for (int row = 0; row < ROWS; ++row)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float value = fmaf((float)sums[row][j * 4 + half * 2 + i], scale, bias);
                    if (inside[half] && y0 + row < g.height)
                        target[row * g.out_pitch + half * 8] = RELU ? fmaxf(value, 0.f) : value;
                }
        }
    }
#elif UPSAMPLE == 1
    const u32 plane = (u32)g.out_plane, pitch = (u32)g.out_pitch * (UPSAMPLE * 16);
    const u32 start = first * plane + (y0 + 1) * pitch + (x + 1) * 16 + quad * 4;
    const bool inside[2] = {x < g.width, x + 8 < g.width};
#pragma unroll
    for (int j = 0; j < N_TILE / 8; j += OUT_INT8 ? 2 : 1) {
        const Affine pairs = load_affine(affine, j);
        char* target = g.output + (start + (j * 8 / OUT_CHUNK) * plane);
#pragma unroll
        for (int row = 0; row < ROWS; ++row)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const u32 value = word(sums[row], j, half, pairs);
                if (inside[half] && y0 + row < g.height) *(u32*)(target + row * pitch + half * 128) = value;
            }
    }
#else
    const u32 plane = (u32)g.out_plane, pitch = (u32)g.out_pitch * (UPSAMPLE * 16);
    // Two neighbouring output pixels are a sector of 32 bytes. Lanes of neighbouring input pixels exchange one of theirs, so
    // that each store writes whole sectors: first of the even pixels, then of the odd ones.
    const bool odd = lane & 4;
    const int even = x & ~1, i = column_tile / blocks;
    const u32 start = first * plane + (u32)(y0 * UPSAMPLE + i + 1) * ((u32)g.out_pitch * 16) +
        (even * UPSAMPLE + 1 + (odd ? 1 : 0)) * 16 + quad * 4;
#pragma unroll
    for (int jj = 0; jj < UPSAMPLE; jj += 2)
#pragma unroll
        for (int j = 0; j < TILE_CHANNELS / 8; j += OUT_INT8 ? 2 : 1) {
            const Affine left = load_affine(affine, j + jj * (TILE_CHANNELS / 8));
            const Affine right = load_affine(affine, j + (jj + 1) * (TILE_CHANNELS / 8));
            char* target = g.output + (start + (j * 8 / OUT_CHUNK) * plane + jj * 16);
#pragma unroll
            for (int row = 0; row < ROWS; ++row)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const u32 mine = word(sums[row], j + jj * (TILE_CHANNELS / 8), half, left);
                    const u32 next = word(sums[row], j + (jj + 1) * (TILE_CHANNELS / 8), half, right);
                    const u32 other = __shfl_xor_sync(0xffffffffu, odd ? mine : next, 4);
                    char* at = target + row * pitch + half * (8 * UPSAMPLE * 16);
                    if (y0 + row < g.height) {
                        if (even + half * 8 < g.width) *(u32*)at = odd ? other : mine;
                        if (even + half * 8 + 1 < g.width) *(u32*)(at + UPSAMPLE * 16) = odd ? next : other;
                    }
                }
        }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) conv(const __grid_constant__ Geometry g)
{
    extern __shared__ __align__(128) char memory[];
    __shared__ __align__(8) u64 barriers[GROUPS * STAGES * 2 + 1];
    const u32 weights = shared_address(memory);
    const u32 full = shared_address(barriers), empty = full + GROUPS * STAGES * 8, loaded = empty + GROUPS * STAGES * 8;
    const int warpgroup = threadIdx.x / 128;
    if (threadIdx.x == 0) {
        for (int i = 0; i < GROUPS * STAGES; ++i) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, WARPGROUPS * 4);  // one arrival of each warp
        }
        barrier_init(loaded, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    begin_with_next();

    // Resident: a block keeps one column tile and goes over pixels. Else column tiles of the same pixels follow each other.
    const int lanes = RESIDENT ? gridDim.x / g.column_tiles : gridDim.x;
    const int fixed = RESIDENT ? blockIdx.x % g.column_tiles : 0;
    const int first = RESIDENT ? blockIdx.x / g.column_tiles : blockIdx.x;
    const int items = RESIDENT ? g.tiles : g.tiles * g.column_tiles;

    if (warpgroup == CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        const int group = threadIdx.x / 32 - CONSUMERS * 4, lane = threadIdx.x % 32;
        if (group >= GROUPS) return;
        if (RESIDENT && group == 0 && lane == 0) {
            barrier_expect(loaded, RESIDENT_BYTES);
            for (int slab = 0; slab < SLABS; ++slab)
                bulk_load(weights + slab * SLAB_WEIGHT_BYTES,
                          g.weights + ((long long)fixed * SLABS + slab) * SLAB_WEIGHT_BYTES, SLAB_WEIGHT_BYTES, loaded);
        }
        wait_for_previous();
        const u32 ring = weights + RESIDENT_BYTES + group * STAGES * STAGE_PITCH;
        int stage = 0;
        u32 parity = 1;
        for (int item = first * GROUPS + group; item < items; item += lanes * GROUPS) {
            const int tile = RESIDENT ? item : item / g.column_tiles;
            const int column_tile = RESIDENT ? fixed : item % g.column_tiles;
            const int y = tile / g.tiles_x * TILE_ROWS, x = tile % g.tiles_x * TILE_COLUMNS;
            const char* source = g.input +
                ((long long)(y * STRIDE - PADDING + 1) * g.in_pitch + (x * STRIDE - PADDING + 1)) * 16;
            for (int slab = 0; slab < SLABS; ++slab) {
                const u32 barrier = full + (group * STAGES + stage) * 8, target = ring + stage * STAGE_PITCH;
                barrier_wait(empty + (group * STAGES + stage) * 8, parity);
                if (lane == 0) barrier_expect(barrier, STAGE_BYTES);
                __syncwarp();
                for (int copy = lane; copy < SLAB_CHUNKS * IN_ROWS; copy += 32) {
                    const int chunk = copy / IN_ROWS, row = copy % IN_ROWS;
                    bulk_load(target + chunk * PLANE + row * (IN_COLS * 16),
                              source + (slab * SLAB_CHUNKS + chunk) * g.in_plane + (long long)row * g.in_pitch * 16,
                              IN_COLS * 16, barrier);
                }
                if (!RESIDENT && lane == 0)
                    bulk_load(target + IN_BYTES,
                              g.weights + ((long long)column_tile * SLABS + slab) * SLAB_WEIGHT_BYTES,
                              SLAB_WEIGHT_BYTES, barrier);
                if (++stage == STAGES) { stage = 0; parity ^= 1; }
            }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    const int group = warpgroup / WARPGROUPS, part = warpgroup % WARPGROUPS;
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const u32 ring = weights + RESIDENT_BYTES + group * STAGES * STAGE_PITCH;
    const u32 my_rows = part * ROWS * STRIDE * (IN_COLS * 16);
    if (RESIDENT) barrier_wait(loaded, 0);
    Accumulator sums[ROWS][N_TILE / 2];
    int stage = 0;
    u32 parity = 0;
    for (int item = first * GROUPS + group; item < items; item += lanes * GROUPS) {
        const int tile = RESIDENT ? item : item / g.column_tiles;
        const int column_tile = RESIDENT ? fixed : item % g.column_tiles;
        for (int slab = 0; slab < SLABS; ++slab) {
            const u32 source = ring + stage * STAGE_PITCH;
            const u32 operand = RESIDENT ? weights + slab * SLAB_WEIGHT_BYTES : source + IN_BYTES;
            barrier_wait(full + (group * STAGES + stage) * 8, parity);
#if STRIDE == 1
            wgmma_fence();
#pragma unroll
            for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
                for (int step = 0; step < SLAB_CHUNKS / 2; ++step) {
                    const u64 b = matrix_descriptor(
                        operand + (tap * SLAB_CHUNKS + step * 2) * (N_TILE * 16), N_TILE * 16, 128);
#pragma unroll
                    for (int row = 0; row < ROWS; ++row) {
                        const u64 a = matrix_descriptor(
                            source + my_rows + step * 2 * PLANE +
                                ((row + tap / KERNEL) * IN_COLS + tap % KERNEL) * 16, PLANE, 128);
                        multiply(sums[row], a, b, slab + tap + step > 0);
                    }
                }
            wgmma_commit();
            // The product of the stage before has ended: its buffer is free.
            wgmma_wait<1>();
            if (slab > 0 && lane == 0)
                barrier_arrive(empty + (group * STAGES + (stage == 0 ? STAGES - 1 : stage - 1)) * 8);
#else
            // Neighbouring output pixels lie two input pixels apart, which no descriptor describes: the left operand goes
            // through registers. Two sets of them, so that loading one overlaps multiplying by the other.
            u32 left[2][ROWS][4];
            const u32 matrix = lane / 8, pixel = warp * 16 + (matrix & 1) * 8 + lane % 8;
            const u32 mine = source + my_rows + (matrix >> 1) * PLANE + pixel * (STRIDE * 16);
#pragma unroll
            for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
                for (int step = 0; step < SLAB_CHUNKS / 2; ++step) {
                    const int set = (tap * (SLAB_CHUNKS / 2) + step) & 1;
                    const u64 b = matrix_descriptor(
                        operand + (tap * SLAB_CHUNKS + step * 2) * (N_TILE * 16), N_TILE * 16, 128);
#pragma unroll
                    for (int row = 0; row < ROWS; ++row)
                        load_matrices(left[set][row], mine + step * 2 * PLANE +
                            ((row * STRIDE + tap / KERNEL) * IN_COLS + tap % KERNEL) * 16);
                    wgmma_fence();
#pragma unroll
                    for (int row = 0; row < ROWS; ++row)
                        multiply_registers(sums[row], left[set][row], b, slab + tap + step > 0);
                    wgmma_commit();
                    wgmma_wait<1>();
                }
            wgmma_wait<0>();
            if (lane == 0) barrier_arrive(empty + (group * STAGES + stage) * 8);
#endif
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
#if STRIDE == 1
        wgmma_wait<0>();
        if (lane == 0)
            barrier_arrive(empty + (group * STAGES + (stage == 0 ? STAGES - 1 : stage - 1)) * 8);
#endif
        const int y = tile / g.tiles_x * TILE_ROWS + part * ROWS, x = tile % g.tiles_x * TILE_COLUMNS;
        store_tile(sums, g, y, x, column_tile, warp, lane);
    }
}
