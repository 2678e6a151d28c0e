// What follows a convolution's sums, in registers: scale, bias, ReLU, rounding, and the stores. Parameters as in conv.cu.
//
// STAGED: a warp's codes go to shared memory, in the map's own layout, and the copy engine stores them as boxes and leaves
// out what is not in the map. Else a warp's store is eight pixels of 16 bytes: a half of its part of a block (blocks.cuh).

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

#if STAGED
// Where a column tile's results go: rows of the target of one number modulo UPSAMPLE, and chunks from one on.
struct StoredColumns {
    int phase, chunk;
};

// Said to be the same for all threads, so that a loop does not divide for each of its tiles.
__device__ __forceinline__ StoredColumns stored_columns(const Geometry& g, int column_tile)
{
    const int blocks = g.column_tiles / UPSAMPLE;
    const int phase = UPSAMPLE > 1 ? uniform(column_tile / blocks) : 0;
    return {phase, (column_tile - phase * blocks) * (TILE_CHANNELS / OUT_CHUNK)};
}

// A warp's boxes [chunk][row][column][16 bytes]: its pixels of blocks of 64 lie side by side, of blocks of 8 x 8 in two rows
// for each row of blocks.
#define BOXES (BLOCK_ROWS == 1 ? 1 : BLOCKS / ACROSS)
#define BOX_ROW ((BLOCK_ROWS == 1 ? 16 : ACROSS * 8) * UPSAMPLE * 16)
#define BOX_CHUNK ((BLOCK_ROWS == 1 ? BLOCKS : 2) * BOX_ROW)
#define BOX_PITCH (TILE_CHANNELS / OUT_CHUNK * BOX_CHUNK)

static_assert(BLOCK_ROWS == 8 || ACROSS == 1, "a warp's pixels are a box");
static_assert(BOXES * BOX_PITCH * 4 == BOX_BYTES, "boxes of four warps");

// From a warp's first pixel to a half of a block, in its boxes.
__device__ __forceinline__ constexpr u32 place_in_boxes(int block, int half)
{
    return BLOCK_ROWS == 1 ? block * BOX_ROW + half * 8 * (UPSAMPLE * 16)
                           : block / ACROSS * BOX_PITCH + half * BOX_ROW + block % ACROSS * 8 * (UPSAMPLE * 16);
}

// Writes a warp's part of its warpgroup's blocks as boxes to shared memory, from where the copy engine takes them. What eight
// pixels have of a chunk is a matrix of 8 x 16 bytes, and several are stored at once: of several chunks, or of the UPSAMPLE
// pixels that each one becomes. There, columns are ordered such that a thread's words of one chunk are neighbours: all that a
// warp stores is contiguous. No two threads want one bank either way.
__device__ __forceinline__ void stage_tile(
    const Accumulator (&sums)[BLOCKS][N_TILE / 2], const Geometry& g, int column_tile, int lane, u32 boxes)
{
    constexpr int CHUNKS = TILE_CHANNELS / OUT_CHUNK;
    constexpr int WORDS = UPSAMPLE > 1 ? UPSAMPLE : CHUNKS % 4 == 0 ? 4 : CHUNKS % 2 == 0 ? 2 : 1;
    const float4* affine = g.affine + (column_tile * N_TILE) / 2 + (lane & 3);
    const u32 mine = boxes + (UPSAMPLE > 1 ? lane / 4 * (UPSAMPLE * 16) + (lane & 3) * (UPSAMPLE * 4)
                                           : lane % 8 * 16 + lane / 8 % WORDS * BOX_CHUNK);
#pragma unroll
    for (int first = 0; first < N_TILE / OUT_CHUNK; first += WORDS) {
        Affine pairs[WORDS];
#pragma unroll
        for (int i = 0; i < WORDS; ++i) pairs[i] = load_affine(affine, (first + i) * (OUT_CHUNK / 8));
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                u32 words[WORDS];
#pragma unroll
                for (int i = 0; i < WORDS; ++i) words[i] = word(sums[block], (first + i) * (OUT_CHUNK / 8), half, pairs[i]);
                const u32 target = mine + first / UPSAMPLE * BOX_CHUNK + place_in_boxes(block, half);
#if UPSAMPLE > 1
                store_words(target, words);
#else
                store_matrices(target, words);
#endif
            }
    }
}

// One thread has the copy engine store a warp's boxes; (y0, x0) is the first pixel of its warpgroup.
__device__ __forceinline__ void store_boxes(
    const TensorMap& target, const StoredColumns& columns, int y0, int x0, int warp, u32 boxes)
{
    const int y = y0 + first_row(warp), x = x0 + first_column(warp, 0);
#pragma unroll
    for (int box = 0; box < BOXES; ++box)
        box_store(target, x * UPSAMPLE, columns.phase, y + box * BLOCK_ROWS, columns.chunk, boxes + box * BOX_PITCH);
}

#else
// Writes a warpgroup's blocks, whose first pixel is (y0, x0). Offsets are 32 bits wide: a map is smaller than 4 GB.
__device__ __forceinline__ void store_tile(
    const Accumulator (&sums)[BLOCKS][N_TILE / 2], const Geometry& g, int y0, int x0, int column_tile, int warp, int lane)
{
    const int quad = lane & 3, y = y0 + first_row(warp), x = x0 + first_column(warp, lane);
    // A transposed convolution's column tile is (i, block of channels) with every j inside.
    const int blocks = g.column_tiles / UPSAMPLE;
    const int first = column_tile % blocks * TILE_CHANNELS / OUT_CHUNK;
    const float4* affine = g.affine + (column_tile * N_TILE) / 2 + quad;
#if UPSAMPLE == 1
    // Which of this thread's pixels are in the map: the same for all columns.
    bool inside[BLOCKS][2];
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            inside[block][half] = y + rows_to(block, half) < g.height && x + columns_to(block, half) < g.width;
#endif
#if OUT_DENSE
#pragma unroll
    for (int j = 0; j < N_TILE / 8; ++j) {
        const float4 pairs = __ldg(affine + j * 4);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int channel = first * OUT_CHUNK + j * 8 + quad * 2 + i;
            if (channel >= g.channels) continue;
            float* target = (float*)(g.output + channel * g.out_plane) + (long long)y * g.out_pitch + x;
            const float scale = i ? pairs.z : pairs.x, bias = i ? pairs.w : pairs.y;
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const float value = fmaf((float)sums[block][j * 4 + half * 2 + i], scale, bias);
                    if (inside[block][half])
                        target[rows_to(block, half) * g.out_pitch + columns_to(block, half)] = RELU ? fmaxf(value, 0.f) : value;
                }
        }
    }
#elif UPSAMPLE == 1
    const u32 plane = (u32)g.out_plane, pitch = (u32)g.out_pitch * 16;
    const u32 start = first * plane + (y + 1) * pitch + (x + 1) * 16 + quad * 4;
#pragma unroll
    for (int j = 0; j < N_TILE / 8; j += OUT_INT8 ? 2 : 1) {
        const Affine pairs = load_affine(affine, j);
        char* target = g.output + (start + (j * 8 / OUT_CHUNK) * plane);
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                store_if(inside[block][half], target + rows_to(block, half) * pitch + columns_to(block, half) * 16,
                         word(sums[block], j, half, pairs));
            }
    }
#else
    const u32 plane = (u32)g.out_plane, pitch = (u32)g.out_pitch * (UPSAMPLE * 16);
    // Two neighbouring output pixels are a sector of 32 bytes. Lanes of neighbouring input pixels exchange one of theirs, so
    // that each store writes whole sectors: first of the even pixels, then of the odd ones.
    const bool odd = lane & 4;
    bool first_inside[BLOCKS][2], second_inside[BLOCKS][2];  // of the two lanes' pixels
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const bool row = y + rows_to(block, half) < g.height;
            first_inside[block][half] = row && (x & ~1) + columns_to(block, half) < g.width;
            second_inside[block][half] = row && (x | 1) + columns_to(block, half) < g.width;
        }
    const int even = x & ~1, i = column_tile / blocks;
    const u32 start = first * plane + (u32)(y * UPSAMPLE + i + 1) * ((u32)g.out_pitch * 16) +
        (even * UPSAMPLE + 1 + (odd ? 1 : 0)) * 16 + quad * 4;
#pragma unroll
    for (int jj = 0; jj < UPSAMPLE; jj += 2)
#pragma unroll
        for (int j = 0; j < TILE_CHANNELS / 8; j += OUT_INT8 ? 2 : 1) {
            const Affine left = load_affine(affine, j + jj * (TILE_CHANNELS / 8));
            const Affine right = load_affine(affine, j + (jj + 1) * (TILE_CHANNELS / 8));
            char* target = g.output + (start + (j * 8 / OUT_CHUNK) * plane + jj * 16);
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const u32 mine = word(sums[block], j + jj * (TILE_CHANNELS / 8), half, left);
                    const u32 next = word(sums[block], j + (jj + 1) * (TILE_CHANNELS / 8), half, right);
                    const u32 other = __shfl_xor_sync(0xffffffffu, odd ? mine : next, 4);
                    char* at = target + rows_to(block, half) * pitch + columns_to(block, half) * (UPSAMPLE * 16);
                    store_if(first_inside[block][half], at, odd ? other : mine);
                    store_if(second_inside[block][half], at + UPSAMPLE * 16, odd ? next : other);
                }
        }
#endif
}
#endif
