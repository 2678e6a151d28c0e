// Which tiles of each layer a frame must compute: those whose reach on the canvas has a pillar in this frame, and those
// where it had one in the frame before, which must become background again. All others hold it already.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.activity`:
//   GRID_X, GRID_Y   cells of the canvas
//   BAND_ROWS        rows of the canvas that one row of bands joins
//   SPANS            most groups of 32 words that the columns of one piece reach over
//   LAYERS           of the network
//   MARK_THREADS, LIST_THREADS   of a block of each kernel
//   MARK_PILLARS     of a thread at a time: their loads wait for each other's memory, not one after the other
//   COUNTER_VOXELS   which counter is the number of pillars
//   MOST_PARTS       of a layer's input (tiles.cuh)
//
// Two kernels, in this order on one stream; a frame that marks nothing may leave out the first.
//   activity_mark   a bit for each pillar, in this frame's table and in the next one's; any number of blocks
//   activity_list   a piece is up to 32 tiles of one row of tiles, by way of one part: a warp joins the rows that they reach, a
//                   lane a word, and then each lane tests its tile's columns. A block is WARPS / parts pieces that follow each
//                   other in one layer, of each part: it writes the active ones down, those that read every part from the
//                   front of the list and the others from its end. Blocks add up what those before them in the layer found, so
//                   that lists have the order of all tiles, row by row.
//
// Buffers:
//   tables    [3][TABLE_ROWS][WORDS] a bit a cell, and below GRID_Y rows their ORs, BAND_ROWS rows each. Three by turns: this
//             frame's holds its own pillars and those of the frame before, the next one's its own so far, and the third is
//             zeroed for the frame after that.
//   state     which of them is this frame's; how many layers have their lists
//   layers    {tiles in a row, in all; where its list begins; number of its parts; where the parts that its tiles always read
//             begin, or -1; pieces of a block}
//   blocks    {layer, its first block, whether it is its last}
//   pieces    of each warp: {last << 16 | first row that it reaches; where the reaches of its tiles' columns begin, last << 16 |
//             first; row of tiles; tiles << 16 | first tile in the row}
//   always    a bit for each part that a tile always reads
//   found     of each block: the tiles of the front and of the back that it found, and whose turn that was
//   lists     each active tile as tiles.cuh has it, with the parts that a pillar reaches; counts [LAYERS] of both ends
//
// Constraints: compute capability 8.0; at most 8192 cells along y and 65,536 along x; 2^23 tiles of a layer; whole warps, as many as
// a layer has parts. Blocks wait for those with lower numbers, which a GPU starts first.
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only skipping        on a GPU, bit for bit against all tiles
//   python -m pytest tests/runtime/test_cuda_engine_activity.py    the same without one

#if !defined(GRID_X) || !defined(GRID_Y) || !defined(BAND_ROWS) || !defined(SPANS) || !defined(MARK_THREADS) || \
    !defined(MARK_PILLARS) || !defined(LIST_THREADS) || !defined(LAYERS) || !defined(COUNTER_VOXELS)
#error "activity.cu: a compile-time parameter is not defined"
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

#define ALL 0xffffffffu
#define WORDS ((GRID_X + 31) / 32)
#define TABLE_ROWS (GRID_Y + (GRID_Y + BAND_ROWS - 1) / BAND_ROWS)
#define TABLE (TABLE_ROWS * WORDS)
#define WARPS (LIST_THREADS / 32)
// What a warp loads at a time.
#define BANDS_AHEAD 16
#define ENDS ((1ull << 24) - 1)

static_assert(GRID_Y <= 8192 && GRID_X <= 65536, "reaches are 16 bits, tiles of a layer 24");
static_assert(MARK_THREADS % 32 == 0 && LIST_THREADS % 32 == 0, "whole warps");
static_assert(LIST_THREADS <= 1024, "a block's sums are 16 bits");

struct State {
    int turn, listed;
};
struct Layer {
    int across, all, list, parts, always, abreast;
};
struct Block {
    int layer, first, last;
};
struct Piece {
    u32 rows;
    int columns, row;
    u32 tiles;
};

extern "C" __global__ void __launch_bounds__(MARK_THREADS) activity_mark(
    const uint4* pillars, const int* counters, u32* tables, const State* state)
{
    begin_with_next();
    wait_for_previous();
    const int count = counters[COUNTER_VOXELS], threads = gridDim.x * MARK_THREADS;
    const int turn = state->turn, following = turn == 2 ? 0 : turn + 1;
    u32 *now = tables + turn * TABLE, *next = tables + following * TABLE;
    const int lane = threadIdx.x & 31;
    // Whole warps: neighbours often share a word, and one of them writes for all.
    for (int begin = blockIdx.x * MARK_THREADS + (threadIdx.x - lane); begin < count; begin += threads * MARK_PILLARS) {
        u32 places[MARK_PILLARS];  // row << 16 | column
#pragma unroll
        for (int k = 0; k < MARK_PILLARS; ++k) {
            const int i = begin + k * threads + lane;
            places[k] = i < count ? pillars[i].w : ALL;
        }
#pragma unroll
        for (int k = 0; k < MARK_PILLARS; ++k) {
            if (begin + k * threads >= count) break;
            const u32 place = places[k], column = (place & 0xffffu) / 32;
            const u32 word = place != ALL ? (place >> 16) * WORDS + column : ALL;
            const u32 alike = __match_any_sync(ALL, word), bits = __reduce_or_sync(alike, 1u << (place & 31));
            if (place == ALL || lane != __ffs(alike) - 1) continue;
            const u32 band = (GRID_Y + (place >> 16) / BAND_ROWS) * WORDS + column;
            atomicOr(now + word, bits);
            atomicOr(now + band, bits);
            atomicOr(next + word, bits);
            atomicOr(next + band, bits);
        }
    }
}

// The OR of a word over some rows: whole bands by their own, and the rows above and below them. Half of the kernel's time were
// instructions, most of them here: places are constants behind three addresses.
__device__ __forceinline__ u32 joined_rows(const u32* words, int top, int bottom)
{
    const int first = (top + BAND_ROWS - 1) / BAND_ROWS, end = max((bottom + 1) / BAND_ROWS, first);
    const int above = min(first * BAND_ROWS, bottom + 1) - top, below = bottom + 1 - end * BAND_ROWS;
    const u32 *upper = words + top * WORDS, *lower = words + end * BAND_ROWS * WORDS;
    u32 ends[2][BAND_ROWS];
#pragma unroll
    for (int k = 0; k < BAND_ROWS - 1; ++k) {
        ends[0][k] = k < above ? upper[k * WORDS] : 0;
        ends[1][k] = k < below ? lower[k * WORDS] : 0;
    }
    u32 any = 0;
    for (int band = first; band < end; band += BANDS_AHEAD) {
        const u32* whole = words + (GRID_Y + band) * WORDS;
        u32 loaded[BANDS_AHEAD];
#pragma unroll
        for (int k = 0; k < BANDS_AHEAD; ++k) loaded[k] = k < end - band ? whole[k * WORDS] : 0;
#pragma unroll
        for (int k = 0; k < BANDS_AHEAD; ++k) any |= loaded[k];
    }
#pragma unroll
    for (int k = 0; k < BAND_ROWS - 1; ++k) any |= ends[0][k] | ends[1][k];
    return any;
}

// Whether a cell lies in a reach of columns; lane l of a warp has words first + l, first + 32 + l ... of the joined rows.
__device__ __forceinline__ bool is_reached(const u32 (&joined)[SPANS], int first, u32 columns)
{
    const int left = columns & 0xffffu, right = columns >> 16, begin = left / 32 - first, end = right / 32 - first;
    u32 any = 0;
#pragma unroll
    for (int span = 0; span < SPANS; ++span) {
        const int from = begin - span * 32, to = end - span * 32;
        const u32 filled = __ballot_sync(ALL, joined[span] != 0);
        u32 at_left = __shfl_sync(ALL, joined[span], from & 31) & ALL << (left & 31);
        const u32 at_right = __shfl_sync(ALL, joined[span], to & 31) & ALL >> (31 - (right & 31));
        if (from == to) at_left &= at_right;
        if (from >= 0 && from < 32) any |= at_left;
        if (to >= 0 && to < 32 && from != to) any |= at_right;
        const int inner = max(from + 1, 0), last = min(to - 1, 31);
        if (inner <= last) any |= filled & ALL << inner & ALL >> (31 - last);
    }
    return any != 0;
}

// What the blocks of a layer before this one found, front | back << 24; all lanes of a warp, and all of them get it.
__device__ __forceinline__ u64 found_before(const u64* found, int first, u32 turn, int lane)
{
    u64 sum = 0;
    for (int block = first + lane; block < (int)blockIdx.x; block += 32) {
        u64 ends;
        do ends = *(const volatile u64*)(found + block);
        while (ends >> 48 != turn + 1);
        sum += ends & (ENDS << 24 | ENDS);
    }
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(ALL, sum, step);
    return sum;
}

extern "C" __global__ void __launch_bounds__(LIST_THREADS) activity_list(
    const Layer* layers, const Block* blocks, const Piece* pieces, const u32* reaches, const unsigned char* always, u32* tables,
    State* state, u64* found, u32* lists, TileCounts* counts)
{
    __shared__ u32 reached[WARPS];
    __shared__ int sums[WARPS], places[2];  // of the front, and of the back
    const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    const Block block = blocks[blockIdx.x];
    const Piece piece = pieces[blockIdx.x * WARPS + warp];
    const int turn = *(const volatile int*)&state->turn;
    const int tiles = piece.tiles >> 16, column = (piece.tiles & 0xffffu) + lane;
    const bool exists = lane < tiles;
    const u32 columns = exists ? reaches[piece.columns + lane] : 0;
    const Layer layer = layers[block.layer];
    const bool writes = exists && warp < layer.abreast;
    const u32 fixed = writes && layer.always >= 0 ? always[layer.always + piece.row * layer.across + column] : 0;
    // What the frame before read: nobody looks at it before it is the next frame's.
    u32* last_table = tables + (turn == 0 ? 2 : turn - 1) * TABLE;
    for (int i = blockIdx.x * LIST_THREADS + threadIdx.x; i < TABLE; i += gridDim.x * LIST_THREADS) last_table[i] = 0;
    // Layers read their lists ahead of waiting for the layer before them: none begins until this kernel has ended.
    wait_for_previous();

    const u32* table = tables + turn * TABLE;
    const int first = (__shfl_sync(ALL, columns, 0) & 0xffffu) / 32;
    const int last = (__shfl_sync(ALL, columns, max(tiles - 1, 0)) >> 16) / 32;
    u32 joined[SPANS];
#pragma unroll
    for (int span = 0; span < SPANS; ++span) {
        const int word = first + span * 32 + lane;
        joined[span] = tiles && word <= last ? joined_rows(table + word, piece.rows & 0xffffu, piece.rows >> 16) : 0;
    }
    const bool is_active = is_reached(joined, first, columns);
    const u32 actives = __ballot_sync(ALL, exists && is_active);
    if (lane == 0) reached[warp] = actives;
    __syncthreads();
    u32 parts = 0;
    if (writes)
        for (int part = 0; part < layer.parts; ++part) parts |= (reached[part * layer.abreast + warp] >> lane & 1) << part;
    const bool active = parts != 0, light = active && (parts | fixed) != (1u << layer.parts) - 1;
    parts |= fixed;
    const u32 fronts = __ballot_sync(ALL, active && !light), backs = __ballot_sync(ALL, light);
    if (lane == 0) sums[warp] = __popc(fronts) | __popc(backs) << 16;
    __syncthreads();
    int before = 0, all = 0;
    for (int i = 0; i < WARPS; ++i) {
        if (i < warp) before += sums[i];
        all += sums[i];
    }
    if (warp == 0) {
        const u64 mine = (u64)(all >> 16) << 24 | (all & 0xffff);
        if (lane == 0) *(volatile u64*)(found + blockIdx.x) = (u64)(turn + 1) << 48 | mine;
        const u64 sum = found_before(found, block.first, turn, lane);
        if (lane == 0) {
            places[0] = (int)(sum & ENDS);
            places[1] = (int)(sum >> 24 & ENDS);
            if (block.last) {
                const u64 total = sum + mine;
                store_kept((u32*)&counts[block.layer].front, (u32)(total & ENDS));
                store_kept((u32*)&counts[block.layer].back, (u32)(total >> 24 & ENDS));
                // All blocks of all layers know whose turn it is.
                if (atomicAdd(&state->listed, 1) == LAYERS - 1) {
                    state->listed = 0;
                    state->turn = turn == 2 ? 0 : turn + 1;
                }
            }
        }
    }
    __syncthreads();
    const int place = light ? places[1] + (before >> 16) : places[0] + (before & 0xffff);
    const int offset = place + __popc((light ? backs : fronts) & ((1u << lane) - 1));
    if (active)
        store_kept(lists + layer.list + (light ? layer.all - 1 - offset : offset), tile_word(piece.row, column, parts));
    // The first layer reads its list ahead of waiting for this kernel, which makes no promise about memory: it is there before
    // a block ends.
    if (active || threadIdx.x == 0) __threadfence();
}
