// Where a thread's pixels lie in a tile of blocks of 64 pixels: BLOCKS of them, ACROSS side by side, each of BLOCK_ROWS rows.
//
// A warp has 16 pixels of every block, which are two halves of eight: next to each other in a row of 64, one row above the
// other in a block of 8 x 8. Lane l has the (l / 4)-th pixel of both.
//
// Constraints: included behind the definitions of conv.cu or heads.cu.
// Checked by: as tiles.cuh

#define BLOCK_COLUMNS (64 / BLOCK_ROWS)

static_assert(BLOCK_ROWS == 1 || BLOCK_ROWS == 8, "eight core matrices of eight pixels at one distance: the M of wgmma");
static_assert(BLOCKS % ACROSS == 0, "blocks fill a rectangle");

// Of a thread's first pixel in a block.
__device__ __forceinline__ int first_row(int warp) { return BLOCK_ROWS == 1 ? 0 : warp * 2; }
__device__ __forceinline__ int first_column(int warp, int lane) { return (BLOCK_ROWS == 1 ? warp * 16 : 0) + lane / 4; }

// From a thread's first pixel of the first block to that of a half of a block.
__device__ __forceinline__ constexpr int rows_to(int block, int half) {
    return block / ACROSS * BLOCK_ROWS + (BLOCK_ROWS == 1 ? 0 : half);
}
__device__ __forceinline__ constexpr int columns_to(int block, int half) {
    return block % ACROSS * BLOCK_COLUMNS + (BLOCK_ROWS == 1 ? half * 8 : 0);
}
