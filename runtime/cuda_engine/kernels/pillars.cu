// Points to the canvas: hard voxelization with mmcv's deterministic result, decoration, PFN, scatter.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.pillar_parameters`, for this file, decoration.cu,
// pfn.cu and encode.cu:
//   CAPACITY             points that the buffers hold
//   COLUMNS, FEATURES    of a point, and of a decorated point: with three offsets to the mean if CLUSTER, CENTER_DIMS to the
//                        pillar's centre, and a length if DISTANCE; LEGACY puts the offsets to the centre in place of x y z
//   GRID_X, GRID_Y       cells
//   LOWER_?, SIZE_?      limits and cell sizes in float32; CENTER_SCALE_?, CENTER_OFFSET_? cell index to cell centre
//   MAX_POINTS, MAX_VOXELS
//   HIDDEN, CHANNELS     outputs of the first of two layers, 0 where there is one, and of the last
//   ROUND_HALF           features and results of layers are rounded to float16, as in a graph of that type
//   OUT_INT8, OUT_SCALE  blocked canvas of codes, else of float16
//   OUT_DENSE            canvas of float32, [CHANNELS][GRID_Y][GRID_X], in place of a blocked one
//   ASSIGN_THREADS, RANK_THREADS, GROUP_THREADS, ENCODE_WARPS   of a block of each kernel; ENCODE_GROUP pillars of a warp
//   RANK_ITEMS           points of a thread of pillars_rank; ENCODE_BLOCKS of a multiprocessor at a time
//   COUNTER_?, TOTAL_?   indices of words that the host and the kernels share, and how many there are
//
// Constraints (what the compiler can see is asserted below):
//   compute capability   8.0 or newer; 9.0 overlaps the kernels
//   model                one layer of cells along z; at most 128 points a pillar, 16 features; pfn.cu has the layers
//   sizes                at most 2^24 points, 2^22 pillars, 8192 x 8192 cells; a plane of the canvas below 4 GB
//   launches             any number of blocks, in this order on one stream
//   alignment            points, tiles and `state` to 8 bytes, pillars and the canvas to 16
//   state                zero before the first frame: state, tiles, totals, counters and the canvas, which nothing else
//                        may write to; each frame leaves them as the next one needs them
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only pillars      on a GPU, against runtime.preprocess and numpy
//   python -m pytest tests/runtime/test_cuda_engine_ends.py     the same without one; with test_cuda_engine_encoders.py
//
// Four kernels, in this order on one stream. Nothing depends on the order in which threads arrive: atomics only take
// minima and counts, and each pillar sorts its points. Whatever a frame changes and the next one expects unchanged is put
// back by a later kernel of the same frame, so that a captured graph can be replayed:
//   state    by pillars_group         canvas           by the next pillars_assign (cells of the last frame's pillars)
//   tiles, ticket, totals             by pillars_group
//
// Buffers:
//   points    [CAPACITY][COLUMNS] float32, count in device memory
//   state     [cells] {~(smallest point index), points}: zero is "no point"
//   cells     [CAPACITY] cell of each point, -1 for none; arrival: its number among the points of its cell
//   cell_base [cells] where the points of a cell lie in `order`; NONE for a pillar that was dropped
//   pillars   [MAX_VOXELS] {cell, base, points, row << 16 | column} in the order of first points
//   totals    sums of a frame (TOTAL_?), kept until pillars_group publishes them as counters (COUNTER_?)

#if !defined(CAPACITY) || !defined(COLUMNS) || !defined(FEATURES) || !defined(CENTER_DIMS) || !defined(GRID_X) || \
    !defined(GRID_Y) || !defined(MAX_POINTS) || !defined(MAX_VOXELS) || !defined(HIDDEN) || !defined(CHANNELS) || \
    !defined(ROUND_HALF) || !defined(OUT_DENSE) || !defined(OUT_INT8) || !defined(OUT_SCALE) || !defined(LOWER_X) || \
    !defined(LOWER_Y) || !defined(LOWER_Z) || !defined(SIZE_X) || !defined(SIZE_Y) || !defined(SIZE_Z) || \
    !defined(CENTER_SCALE_X) || !defined(CENTER_SCALE_Y) || !defined(CENTER_SCALE_Z) || !defined(CENTER_OFFSET_X) || \
    !defined(CENTER_OFFSET_Y) || !defined(CENTER_OFFSET_Z) || !defined(ASSIGN_THREADS) || !defined(RANK_THREADS) || \
    !defined(GROUP_THREADS) || !defined(RANK_ITEMS) || !defined(ENCODE_WARPS) || !defined(ENCODE_GROUP) || !defined(ENCODE_BLOCKS) || \
    !defined(CLUSTER) || !defined(DISTANCE) || !defined(LEGACY) || !defined(COUNTER_VOXELS) || !defined(COUNTER_DROPPED_VOXELS) || !defined(COUNTER_DROPPED_POINTS) || \
    !defined(COUNTER_OUTSIDE_POINTS) || !defined(COUNTER_INVALID_POINTS) || !defined(NUM_COUNTER) || \
    !defined(TOTAL_INVALID) || !defined(TOTAL_OUTSIDE) || !defined(TOTAL_DROPPED_POINTS) || !defined(TOTAL_PILLARS) || \
    !defined(TOTAL_TICKET) || !defined(NUM_TOTAL)
#error "pillars.cu: a compile-time parameter is not defined"
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

#define CELLS (GRID_X * GRID_Y)
#define NONE 0xffffffffu
#define ALL 0xffffffffu
#define READY (1ull << 63)
#define TILE (RANK_THREADS * RANK_ITEMS)
#define TILES ((CAPACITY + TILE - 1) / TILE)

static_assert(ASSIGN_THREADS % 32 == 0 && RANK_THREADS % 32 == 0 && GROUP_THREADS % 32 == 0, "whole warps");
static_assert(ASSIGN_THREADS <= 1024 && RANK_THREADS <= 1024 && GROUP_THREADS <= 1024, "at most 1024 threads");
static_assert(1 <= CAPACITY && CAPACITY <= 1 << 24, "points");
static_assert(1 <= GRID_X && GRID_X <= 8192 && 1 <= GRID_Y && GRID_Y <= 8192, "cells; a cell's row and column are 16 bits");
static_assert(1 <= MAX_POINTS && MAX_POINTS <= 128, "at most four points of a lane");
static_assert(1 <= MAX_VOXELS && MAX_VOXELS <= 1 << 22, "pillars; their places on the canvas are counted in 32 bits");
static_assert(!(OUT_DENSE && OUT_INT8), "one type of canvas");
static_assert(NUM_COUNTER == 5 && NUM_TOTAL == 5, "every word is written below");

#if OUT_DENSE
#define CHUNK_CHANNELS 1
#define PITCH GRID_X
#define BORDER 0
typedef float Chunk;
#else
#define CHUNK_CHANNELS (OUT_INT8 ? 16 : 8)
#define PITCH (GRID_X + 2)
#define BORDER 1
typedef uint4 Chunk;
#endif
#define CHUNKS ((CHANNELS + CHUNK_CHANNELS - 1) / CHUNK_CHANNELS)

__device__ __forceinline__ int clamp_count(const int* count) { return max(0, min(*count, CAPACITY)); }

__device__ __forceinline__ bool is_finite(float value) { return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u; }

__device__ __forceinline__ u32 warp_sum(u32 value) {
    for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(ALL, value, step);
    return value;
}

// Byte offset of a cell, as a pillar's record has it, in each plane of the canvas.
__device__ __forceinline__ u32 canvas_offset(u32 place) {
    return (((place >> 16) + BORDER) * PITCH + (place & 0xffffu) + BORDER) * (u32)sizeof(Chunk);
}

extern "C" __global__ void __launch_bounds__(ASSIGN_THREADS) pillars_assign(
    const float* points, const int* count, u32* state, int* cells, u32* arrival, u32* totals, const uint4* pillars,
    const int* counters, char* canvas, long long plane)
{
    wait_for_previous();
    begin_with_next();
    const int threads = gridDim.x * ASSIGN_THREADS, first = blockIdx.x * ASSIGN_THREADS + threadIdx.x;
    const int lane = threadIdx.x & 31, num_points = clamp_count(count);

    for (int i = first; i < counters[COUNTER_VOXELS] * CHUNKS; i += threads) {
        const u32 offset = canvas_offset(pillars[i / CHUNKS].w);
        *(Chunk*)(canvas + (i % CHUNKS) * plane + offset) = Chunk();
    }

    const float lower[3] = {LOWER_X, LOWER_Y, LOWER_Z}, size[3] = {SIZE_X, SIZE_Y, SIZE_Z};
    const int grid[3] = {GRID_X, GRID_Y, 1};
    u32 invalid = 0, outside = 0;
    for (int start = first - lane; start < num_points; start += threads) {
        const int i = start + lane;
        const bool present = i < num_points;
        bool finite = present, inside = present;
        int cell = 0;
        if (present) {
            float value[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) value[c] = points[(long long)i * COLUMNS + c];
            for (int c = 0; c < COLUMNS; ++c) finite = finite && is_finite(value[c]);
            for (int axis = 2; axis >= 0; --axis) {
                // Far coordinates may overflow to infinity, which is outside as well.
                const float position = floorf((value[axis] - lower[axis]) / size[axis]);
                inside = inside && position >= 0.0f && position < (float)grid[axis];
                if (finite && inside) cell = cell * grid[axis] + (int)position;
            }
        }
        invalid += __popc(__ballot_sync(ALL, present && !finite));
        outside += __popc(__ballot_sync(ALL, finite && !inside));
        if (!present) continue;
        if (finite && inside) {
            atomicMax(&state[2 * cell], ~(u32)i);
            arrival[i] = atomicAdd(&state[2 * cell + 1], 1u);
            cells[i] = cell;
        } else {
            cells[i] = -1;
        }
    }
    if (lane == 0 && invalid) atomicAdd(&totals[TOTAL_INVALID], invalid);
    if (lane == 0 && outside) atomicAdd(&totals[TOTAL_OUTSIDE], outside);
}

// Sum over the block; `partial` has a word for each warp. Every thread gets it.
__device__ __forceinline__ u64 block_sum(u64 value, u64* partial) {
    for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(ALL, value, step);
    if ((threadIdx.x & 31) == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    u64 total = 0;
    for (int warp = 0; warp < RANK_THREADS / 32; ++warp) total += partial[warp];
    __syncthreads();
    return total;
}

// A pillar's rank is the number of points before its first one that are first in their cells. Each block publishes the
// sum of its tile and then reads those of all tiles before it.
__device__ __forceinline__ void rank_tile(
    int tile, int num_tiles, int num_points, const u32* state, const int* cells, u32* cell_base, uint4* pillars, u64* tiles,
    u32* totals, u64* partial)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const int start = tile * TILE + threadIdx.x * RANK_ITEMS;
    int cell[RANK_ITEMS];
    u32 points[RANK_ITEMS];  // of the pillar that begins here, or 0
    u64 own = 0;             // pillars in the high word, points in the low one
    for (int j = 0; j < RANK_ITEMS; ++j) {
        const int i = start + j;
        cell[j] = i < num_points ? cells[i] : -1;
        points[j] = 0;
        if (cell[j] >= 0) {
            const uint2 value = *(const uint2*)&state[2 * cell[j]];
            if (value.x == ~(u32)i) points[j] = value.y;
        }
        own += points[j] ? (1ull << 32) + points[j] : 0;
    }
    u64 inclusive = own;
    for (int step = 1; step < 32; step <<= 1) {
        const u64 other = __shfl_up_sync(ALL, inclusive, step);
        if (lane >= step) inclusive += other;
    }
    if (lane == 31) partial[warp] = inclusive;
    __syncthreads();
    u64 before = inclusive - own, total = 0;
    for (int w = 0; w < RANK_THREADS / 32; ++w) {
        if (w < warp) before += partial[w];
        total += partial[w];
    }
    __syncthreads();
    if (threadIdx.x == 0) atomicExch(&tiles[tile], total | READY);
    u64 previous = 0;
    for (int other = threadIdx.x; other < tile; other += RANK_THREADS) {
        u64 value;
        do value = *(volatile u64*)&tiles[other];
        while (!(value & READY));
        previous += value & ~READY;
    }
    previous = block_sum(previous, partial);
    before += previous;

    u32 dropped = 0;
    for (int j = 0; j < RANK_ITEMS; ++j) {
        if (!points[j]) continue;
        const u32 rank = (u32)(before >> 32), base = (u32)before;
        if (rank < MAX_VOXELS) {
            const u32 place = (u32)(cell[j] / GRID_X) << 16 | (u32)(cell[j] % GRID_X);
            pillars[rank] = make_uint4((u32)cell[j], base, points[j], place);
            dropped += points[j] > MAX_POINTS ? points[j] - MAX_POINTS : 0;
        } else {
            dropped += points[j];
        }
        cell_base[cell[j]] = rank < MAX_VOXELS ? base : NONE;
        before += (1ull << 32) + points[j];
    }
    dropped = warp_sum(dropped);
    if (lane == 0 && dropped) atomicAdd(&totals[TOTAL_DROPPED_POINTS], dropped);
    if (threadIdx.x == 0 && tile == num_tiles - 1) totals[TOTAL_PILLARS] = (u32)((previous + total) >> 32);
}

// Tiles are handed out in the order in which blocks ask for them, so that a block waits only for blocks that run already
// and publish before they wait.
extern "C" __global__ void __launch_bounds__(RANK_THREADS) pillars_rank(
    const int* count, const u32* state, const int* cells, u32* cell_base, uint4* pillars, u64* tiles, u32* totals)
{
    __shared__ u64 partial[RANK_THREADS / 32];
    __shared__ int ticket;
    wait_for_previous();
    begin_with_next();
    const int num_points = clamp_count(count), num_tiles = (num_points + TILE - 1) / TILE;
    do {
        if (threadIdx.x == 0) ticket = (int)atomicAdd(&totals[TOTAL_TICKET], 1u);
        __syncthreads();
        const int tile = ticket;
        if (tile >= num_tiles) return;
        rank_tile(tile, num_tiles, num_points, state, cells, cell_base, pillars, tiles, totals, partial);
    } while ((int)gridDim.x < num_tiles);  // else each tile has a block
}

// Gathers the points of each pillar, publishes the counters and puts back what the next frame expects.
extern "C" __global__ void __launch_bounds__(GROUP_THREADS) pillars_group(
    const int* count, u32* state, const int* cells, const u32* arrival, const u32* cell_base, u32* order, u64* tiles,
    u32* totals, int* counters)
{
    wait_for_previous();
    begin_with_next();
    const int num_points = clamp_count(count);
    for (int i = blockIdx.x * GROUP_THREADS + threadIdx.x; i < num_points; i += gridDim.x * GROUP_THREADS) {
        const int cell = cells[i];
        if (cell < 0) continue;
        const u32 base = cell_base[cell], place = arrival[i];
        if (base != NONE) order[base + place] = (u32)i;
        if (place == 0) *(uint2*)&state[2 * cell] = make_uint2(0, 0);
    }
    if (blockIdx.x != 0) return;
    for (int tile = threadIdx.x; tile < TILES; tile += GROUP_THREADS) tiles[tile] = 0;
    if (threadIdx.x != 0) return;
    const int pillars = (int)totals[TOTAL_PILLARS], kept = min(pillars, MAX_VOXELS);
    counters[COUNTER_VOXELS] = kept;
    counters[COUNTER_DROPPED_VOXELS] = pillars - kept;
    counters[COUNTER_DROPPED_POINTS] = (int)totals[TOTAL_DROPPED_POINTS];
    counters[COUNTER_OUTSIDE_POINTS] = (int)totals[TOTAL_OUTSIDE];
    counters[COUNTER_INVALID_POINTS] = (int)totals[TOTAL_INVALID];
    for (int i = 0; i < NUM_TOTAL; ++i) totals[i] = 0;
}
