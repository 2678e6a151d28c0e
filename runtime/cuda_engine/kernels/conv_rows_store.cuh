// What follows a convolution's sums with channels as rows: scale, bias, ReLU, rounding, and the stores. Parameters as in
// conv_geometry.cuh.
//
// A warp has 16 channels: lane l's rows are l / 4 and l / 4 + 8 of them, and of every eight pixels it has 2 (l % 4) and
// 2 (l % 4) + 1. Transposed, they are a word of pixel l / 4, and those of a warp eight pixels of 16 bytes.

// (scale, bias) of a lane's two channels.
struct RowAffine {
    float2 first, second;
};

__device__ __forceinline__ RowAffine load_row_affine(const Geometry& g, int row)
{
    const float2* pairs = (const float2*)g.affine + row;
    RowAffine affine;
    affine.first = __ldg(pairs);
    affine.second = __ldg(pairs + 8);
    return affine;
}

__device__ __forceinline__ float scaled(Accumulator sum, const float2& pair) { return fmaf((float)sum, pair.x, pair.y); }

#define WARP_CHUNKS (16 / OUT_CHUNK)  // of a warp's channels

#if OUT_INT8
__device__ __forceinline__ int rounded(Accumulator sum, const float2& pair)
{
    const float value = scaled(sum, pair);
    return __float2int_rn(RELU ? fmaxf(value, 0.f) : value);
}
#endif

// Elements of 16 bits of two pixels, from (first channel, second) of each: two codes of one, or halves of the first or the second
// channel.
__device__ __forceinline__ u32 elements(const Accumulator* sums, const RowAffine& affine, int chunk)
{
#if OUT_INT8
    return pack_codes(rounded(sums[0], affine.first), rounded(sums[2], affine.second),
                      rounded(sums[1], affine.first), rounded(sums[3], affine.second));
#else
    const float2 pair = chunk ? affine.second : affine.first;
    const float left = scaled(sums[chunk * 2], pair), right = scaled(sums[chunk * 2 + 1], pair);
    return RELU ? pack_halves_relu(left, right) : pack_halves(left, right);
#endif
}

#if STAGED
// A warp's box in shared memory, [chunk][row][column][16 bytes] of its channels and its warpgroup's pixels. Four matrices are
// stored at once: rows of eight pixels, of every chunk.
__device__ __forceinline__ void stage_rows(
    const Accumulator (&sums)[BLOCKS][BLOCK_ROWS * 4], const RowAffine& affine, int lane, u32 box)
{
    const int matrix = lane / 8, pixel = lane % 8;
    const u32 mine = box + ((matrix % WARP_CHUNKS * PART_ROWS + matrix / WARP_CHUNKS) * PART_COLUMNS + pixel) * 16;
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
        for (int row = 0; row < BLOCK_ROWS; row += 4 / WARP_CHUNKS) {
            u32 words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                words[i] = elements(&sums[block][(row + i / WARP_CHUNKS) * 4], affine, i % WARP_CHUNKS);
            const int rows = block / ACROSS * BLOCK_ROWS + row, columns = block % ACROSS * BLOCK_COLUMNS;
            store_transposed(mine + (rows * PART_COLUMNS + columns) * 16, words);
        }
}
#else
// Writes a warp's channels, from `chunk` of the target on, of its blocks of pixels, of which (y0, x0) is the first. Offsets are
// 32 bits wide: a map is smaller than 4 GB.
__device__ __forceinline__ void store_rows(
    const Accumulator (&sums)[BLOCKS][BLOCK_ROWS * 4], const Geometry& g, const RowAffine& affine, int chunk, int y0, int x0, int lane)
{
    const int x = x0 + lane / 4;
    const u32 plane = (u32)g.out_plane, pitch = (u32)g.out_pitch * 16;
    const u32 start = chunk * plane + (y0 + 1) * pitch + (x + 1) * 16 + lane % 4 * 4;
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
        const int rows = block / ACROSS * BLOCK_ROWS, columns = block % ACROSS * BLOCK_COLUMNS;
        // Of this lane's column, so many rows are in the map.
        const int inside = x + columns < g.width ? g.height - y0 - rows : 0;
        char* target = g.output + (start + rows * pitch + columns * 16);
#pragma unroll
        for (int row = 0; row < BLOCK_ROWS; ++row)
#pragma unroll
            for (int i = 0; i < WARP_CHUNKS; ++i)
                store_if(row < inside, target + i * plane + row * pitch, transpose(elements(&sums[block][row * 4], affine, i)));
    }
}
#endif
