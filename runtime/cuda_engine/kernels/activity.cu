// Which tiles of each layer a frame must compute: those whose reach on the canvas has a pillar in this frame, and those
// where it had one in the frame before, which must become background again. All others hold it already.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.activity`:
//   GRID_X, GRID_Y   cells of the canvas
//   LEVELS           of the table: the highest one covers 2^(LEVELS - 1) rows
//   LAYERS           of the network
//   MARK_THREADS, JOIN_THREADS, LIST_THREADS   of a block of each kernel
//   COUNTER_VOXELS   which counter is the number of pillars
//   MOST_PARTS       of a layer's input (tiles.cuh)
//
// Three kernels, in this order on one stream; a frame that marks nothing may leave out the first.
//   activity_mark   a bit for each pillar; any number of blocks
//   activity_join   one block for each word of a row: this frame's cells or the last one's, and for every level the OR of
//                   2^level rows from each row on, so that any rectangle is two reads a word
//   activity_list   one block for each segment of LIST_THREADS tiles of a layer: tests them and writes the active ones
//                   down, those that read every part from the front of the list and the others from its end. Segments of
//                   a layer follow each other as they come, which no result depends on.
//
// Buffers:
//   now, before   [GRID_Y][WORDS] a bit a cell; `now` is zero again after activity_join
//   table         [LEVELS][GRID_Y][WORDS]
//   layers        {rows, columns: where the reaches of its rows and columns of tiles begin; tiles in a row, in all; where its
//                 list begins; number of its parts; where the parts that its tiles always read begin, or -1}
//   reaches       last << 16 | first; of a layer, part after part
//   always        a bit for each part that a tile always reads
//   segments      {layer, first tile}
//   lists         each active tile as tiles.cuh has it, with the parts that a pillar reaches; counts [LAYERS] of both ends,
//                 zeroed by activity_join
//
// Constraints: compute capability 8.0; at most 8192 cells along y and 65,536 along x; whole warps.
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only skipping        on a GPU, bit for bit against all tiles
//   python -m pytest tests/runtime/test_cuda_engine_activity.py    the same without one

#if !defined(GRID_X) || !defined(GRID_Y) || !defined(LEVELS) || !defined(MARK_THREADS) || !defined(JOIN_THREADS) || \
    !defined(LIST_THREADS) || !defined(LAYERS) || !defined(COUNTER_VOXELS)
#error "activity.cu: a compile-time parameter is not defined"
#endif

typedef unsigned int u32;

#define ALL 0xffffffffu
#define WORDS ((GRID_X + 31) / 32)
#define JOIN_ROWS ((GRID_Y + JOIN_THREADS - 1) / JOIN_THREADS)
#define WARPS (LIST_THREADS / 32)

static_assert(GRID_Y <= 8192 && GRID_X <= 65536, "a column of words lies in shared memory, reaches are 16 bits");
static_assert(LIST_THREADS % 32 == 0, "whole warps");
static_assert(LAYERS <= JOIN_THREADS, "one block clears the counts");

struct Layer {
    int rows, columns, across, all, list, parts, always;
};
struct Segment {
    int layer, first;
};

extern "C" __global__ void __launch_bounds__(MARK_THREADS) activity_mark(const uint4* pillars, const int* counters, u32* now)
{
    begin_with_next();
    wait_for_previous();
    const int count = counters[COUNTER_VOXELS], threads = gridDim.x * MARK_THREADS;
    // Whole warps: neighbours often share a word, and one of them writes for all.
    for (int begin = blockIdx.x * MARK_THREADS + threadIdx.x / 32 * 32; begin < count; begin += threads) {
        const int i = begin + (threadIdx.x & 31);
        const u32 place = i < count ? pillars[i].w : 0;  // row << 16 | column
        const u32 word = i < count ? (place >> 16) * WORDS + (place & 0xffffu) / 32 : ALL;
        const u32 alike = __match_any_sync(ALL, word), bits = __reduce_or_sync(alike, 1u << (place & 31));
        if (i < count && (threadIdx.x & 31) == __ffs(alike) - 1) atomicOr(now + word, bits);
    }
}

extern "C" __global__ void __launch_bounds__(JOIN_THREADS) activity_join(u32* now, u32* before, u32* table, TileCounts* counts)
{
    __shared__ u32 column[GRID_Y];
    const int word = blockIdx.x;
    begin_with_next();
    wait_for_previous();
    if (word == 0 && threadIdx.x < LAYERS) counts[threadIdx.x] = TileCounts{0, 0};
    u32 mine[JOIN_ROWS];
    for (int i = 0; i < JOIN_ROWS; ++i) {
        const int y = i * JOIN_THREADS + threadIdx.x;
        if (y >= GRID_Y) continue;
        const u32 cells = now[y * WORDS + word];
        mine[i] = cells | before[y * WORDS + word];
        before[y * WORDS + word] = cells;
        now[y * WORDS + word] = 0;
        column[y] = mine[i];
        table[y * WORDS + word] = mine[i];
    }
    for (int level = 1; level < LEVELS; ++level) {
        __syncthreads();
        for (int i = 0; i < JOIN_ROWS; ++i) {
            const int y = i * JOIN_THREADS + threadIdx.x, other = y + (1 << (level - 1));
            if (other < GRID_Y) mine[i] |= column[other];
        }
        __syncthreads();
        for (int i = 0; i < JOIN_ROWS; ++i) {
            const int y = i * JOIN_THREADS + threadIdx.x;
            if (y >= GRID_Y) continue;
            column[y] = mine[i];
            table[(level * GRID_Y + y) * WORDS + word] = mine[i];
        }
    }
}

// Whether the rectangle of two reaches has a cell.
__device__ __forceinline__ bool is_reached(const u32* table, u32 rows, u32 columns)
{
    const int top = rows & 0xffffu, bottom = rows >> 16, left = columns & 0xffffu, right = columns >> 16;
    const int level = 31 - __clz(bottom - top + 1);
    const u32* upper = table + (level * GRID_Y + top) * WORDS;
    const u32* lower = table + (level * GRID_Y + bottom + 1 - (1 << level)) * WORDS;
    u32 any = 0;
    for (int word = left / 32; word <= right / 32; ++word) {
        u32 cells = ALL;
        if (word == left / 32) cells &= ALL << (left & 31);
        if (word == right / 32) cells &= ALL >> (31 - (right & 31));
        any |= (upper[word] | lower[word]) & cells;
    }
    return any != 0;
}

extern "C" __global__ void __launch_bounds__(LIST_THREADS) activity_list(
    const Layer* layers, const Segment* segments, const u32* reaches, const unsigned char* always, const u32* table, u32* lists,
    TileCounts* counts)
{
    __shared__ int sums[2][WARPS], places[2];  // of the front and of the back
    const Segment segment = segments[blockIdx.x];
    const Layer layer = layers[segment.layer];
    const int tile = segment.first + threadIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const bool exists = tile < layer.all;
    const int row = tile / layer.across, column = tile % layer.across;
    const int down = layer.all / layer.across;
    u32 rows[MOST_PARTS], columns[MOST_PARTS];
#pragma unroll
    for (int part = 0; part < MOST_PARTS; ++part) {
        const bool has = exists && part < layer.parts;
        rows[part] = has ? reaches[layer.rows + part * down + row] : 0;
        columns[part] = has ? reaches[layer.columns + part * layer.across + column] : 0;
    }
    const u32 fixed = exists && layer.always >= 0 ? always[layer.always + tile] : 0;
    // Layers read their lists ahead of waiting for the layer before them: none begins until this kernel has ended.
    wait_for_previous();
    u32 parts = 0;
#pragma unroll
    for (int part = 0; part < MOST_PARTS; ++part)
        if (exists && part < layer.parts && is_reached(table, rows[part], columns[part])) parts |= 1u << part;
    const bool active = parts != 0, light = active && (parts | fixed) != (1u << layer.parts) - 1;
    parts |= fixed;
    const u32 fronts = __ballot_sync(ALL, active && !light), backs = __ballot_sync(ALL, light);
    if (lane == 0) {
        sums[0][warp] = __popc(fronts);
        sums[1][warp] = __popc(backs);
    }
    __syncthreads();
    if (threadIdx.x < 2) {
        int total = 0;
        for (int i = 0; i < WARPS; ++i) {
            const int found = sums[threadIdx.x][i];
            sums[threadIdx.x][i] = total;
            total += found;
        }
        TileCounts* mine = counts + segment.layer;
        places[threadIdx.x] = total ? add_kept(threadIdx.x ? &mine->back : &mine->front, total) : 0;
    }
    __syncthreads();
    const int place = places[light] + sums[light][warp] + __popc((light ? backs : fronts) & ((1u << lane) - 1));
    if (active) store_kept(lists + layer.list + (light ? layer.all - 1 - place : place), tile_word(row, column, parts));
    // The first layer reads its list ahead of waiting for this kernel, which makes no promise about memory: it is there before
    // a block ends.
    __threadfence();
}
