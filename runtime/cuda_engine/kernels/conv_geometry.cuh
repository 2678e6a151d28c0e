// One convolution as an implicit matrix product on Hopper's tensor cores, persistent and warp-specialized.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.tiling` and `sources`:
//   IN_INT8, OUT_INT8   element types of the maps (else float16); accumulators are int32 or float32
//   OUT_DENSE           the target is an output: [channel][height][width] float32, of any number of channels
//   CHANNELS_AS_ROWS    D = W x X (conv_rows.cu): 64 channels are the rows of a product and pixels its columns; else D = X x W
//                       (conv.cu): 64 pixels are its rows
//   N_TILE              output columns of a tile; a column is a channel, or (j, channel) of a transposed convolution. With
//                       channels as rows: its channels
//   KERNEL, STRIDE, PADDING, UPSAMPLE
//   SLAB_CHUNKS, SLABS  16-byte chunks of input channels in a stage, and stages along K
//   PARTS, PERIOD       of the input channels, each of which a tile may leave out: `background`, which then joins its sums,
//                       repeats every so many pixels along both axes
//   GROUPS, WARPGROUPS  consumer groups, each with tiles and a ring of stages of its own, and warpgroups in a group
//   BLOCKS              blocks of output pixels for each warpgroup, ACROSS of them side by side
//   BLOCK_ROWS          rows of a block: 1 (of 64 pixels) or 8 (of 8); with channels as rows up to 32 (of 8)
//   STAGES              stages in a ring
//   RESIDENT            weights of the block's columns stay in the block; else each stage brings its own
//   REGISTER_WEIGHTS    they stay in registers, with channels as rows; else in shared memory
//   STAGED              results go to the map by way of shared memory, as boxes that the copy engine stores
//   ORDERED             warpgroups multiply in turn; else whenever a stage is full
//   RELU
//   REGISTERS           of a consumer's thread
//   THREADS, SHARED_BYTES, ARGUMENT_BYTES   of a launch, and of `Geometry`, as the host has them
// Work: tiles of TILE_ROWS x TILE_COLUMNS pixels by N_TILE columns, all of a map or those of a list (tiles.cuh). With one
// warpgroup to a group, one group's epilogue runs while the other group computes. Warpgroups of a group have rows of its
// pixels; with channels as rows 64 of its channels each, or where it has no more than those, pixels side by side.
//
// Weights are packed [column tile][slab][tap][chunk][column][16 bytes], (scale, bias) pairs [column].
// Columns of an INT8 target are permuted within 16 such that a thread stores four neighbouring channels.
//
// Constraints (what the compiler can see is asserted below):
//   compute capability  9.0 alone, as sm_90a: wgmma, setmaxnreg, bulk copies
//   channels            inputs a multiple of 32 (INT8) or 16 (float16); N_TILE a multiple of 16, at most 256; as rows: of 64
//   launch              THREADS threads and SHARED_BYTES of dynamic shared memory; with RESIDENT, whole sets of
//                       column_tiles blocks; at most a block a multiprocessor
//   alignment           maps, weights and affine to 16 bytes; maps as in hopper.cuh, with room behind the last row for a
//                       whole tile (`DeviceMap.allocate`)
//   sizes               a map below 4 GB: offsets of its stores are 32 bits wide
//   border              zero, and never written
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only layers          on a GPU, against exact arithmetic
//   python -m pytest tests/runtime/test_cuda_engine_network.py     addressing without one, and that nvcc compiles it

#if !defined(IN_INT8) || !defined(OUT_INT8) || !defined(OUT_DENSE) || !defined(CHANNELS_AS_ROWS) || !defined(N_TILE) || !defined(KERNEL) || !defined(STRIDE) || \
    !defined(PADDING) || !defined(UPSAMPLE) || !defined(SLAB_CHUNKS) || !defined(SLABS) || !defined(PARTS) || !defined(PERIOD) || !defined(GROUPS) || \
    !defined(WARPGROUPS) || !defined(BLOCKS) || !defined(BLOCK_ROWS) || !defined(ACROSS) || !defined(STAGES) || \
    !defined(RESIDENT) || !defined(REGISTER_WEIGHTS) || !defined(STAGED) || !defined(ORDERED) || !defined(RELU) || !defined(REGISTERS) || \
    !defined(THREADS) || !defined(SHARED_BYTES) || \
    !defined(ARGUMENT_BYTES)
#error "conv_geometry.cuh: a compile-time parameter is not defined"
#endif

#define TAPS (KERNEL * KERNEL)
#define PART_ROWS (BLOCKS / ACROSS * BLOCK_ROWS)  // of a warpgroup
#define PART_COLUMNS (ACROSS * BLOCK_COLUMNS)
#if CHANNELS_AS_ROWS
#define BLOCK_COLUMNS 8
#define CHANNEL_PARTS (N_TILE / 64)
#define TILE_ROWS PART_ROWS
#define TILE_COLUMNS (WARPGROUPS / CHANNEL_PARTS * PART_COLUMNS)
#else
#define TILE_ROWS (WARPGROUPS * PART_ROWS)
#define TILE_COLUMNS PART_COLUMNS
#endif
#define IN_ROWS ((TILE_ROWS - 1) * STRIDE + KERNEL)
#define IN_COLS ((TILE_COLUMNS - 1) * STRIDE + KERNEL)
#define PLANE (IN_ROWS * IN_COLS * 16)
#define IN_BYTES (SLAB_CHUNKS * PLANE)
#define SLAB_WEIGHT_BYTES (TAPS * SLAB_CHUNKS * N_TILE * 16)
#define STAGE_BYTES (IN_BYTES + (RESIDENT ? 0 : SLAB_WEIGHT_BYTES))
#define STAGE_PITCH ((STAGE_BYTES + 127) / 128 * 128)
#define RESIDENT_BYTES (RESIDENT && !REGISTER_WEIGHTS ? SLABS * SLAB_WEIGHT_BYTES : 0)
#define CONSUMERS (GROUPS * WARPGROUPS)
#define BOX_COLUMNS (CHANNELS_AS_ROWS ? BLOCK_ROWS * 8 : N_TILE)             // of a product
#define BOX_BYTES (STAGED ? BLOCKS * 64 * BOX_COLUMNS * (OUT_INT8 ? 1 : 2) : 0)  // that a warpgroup stores at once
#define TILE_CHANNELS (N_TILE / UPSAMPLE)  // channels of a tile's columns
#define OUT_CHUNK (OUT_INT8 ? 16 : 8)

static_assert(N_TILE % 16 == 0 && N_TILE <= 256 && N_TILE % UPSAMPLE == 0, "columns of a product");
static_assert(TILE_CHANNELS % OUT_CHUNK == 0, "a tile's columns fill chunks of the target");
static_assert(!OUT_DENSE || (UPSAMPLE == 1 && !OUT_INT8), "an output is written by a convolution, in float32");
static_assert(SLAB_CHUNKS % 2 == 0, "K of an instruction is two chunks");
static_assert(PARTS == 1 || IN_INT8, "sums of integers alone are the same in any order");
static_assert(PARTS <= 4 && SLABS % PARTS == 0, "bits of a tile, and whole slabs");
static_assert(STAGED || UPSAMPLE == 1 || UPSAMPLE % 2 == 0, "a transposed convolution stores pairs of pixels");
static_assert(!STAGED || UPSAMPLE == 1 || UPSAMPLE == 2 || UPSAMPLE == 4, "words that a thread stores at once");
static_assert(!STAGED || !OUT_DENSE, "boxes of maps");
static_assert(STRIDE == 1 || STRIDE == 2, "what the loads are written for");
#if CHANNELS_AS_ROWS
static_assert(STRIDE == 1 && UPSAMPLE == 1 && !OUT_DENSE, "pixels of a descriptor are neighbours; maps alone are stored");
static_assert(BLOCK_ROWS <= 32 && (BLOCK_ROWS % 2 == 0 || !IN_INT8), "columns of a product: at most 256, of integers 16 by 16");
static_assert(N_TILE % 64 == 0 && WARPGROUPS % CHANNEL_PARTS == 0, "a warpgroup has 64 channels");
static_assert(BLOCKS % ACROSS == 0, "blocks fill a rectangle");
static_assert(!STAGED || BLOCK_ROWS % (OUT_INT8 ? 4 : 2) == 0, "four matrices of a block are stored at once");
#endif
static_assert(!REGISTER_WEIGHTS || (CHANNELS_AS_ROWS && RESIDENT && SLABS == 1), "the left operand, loaded once");
static_assert(IN_COLS * 2 <= 256 && IN_ROWS <= 256, "a box of the copy engine");
static_assert(!ORDERED || (CONSUMERS > 1 && (GROUPS == 1 || WARPGROUPS == 1)), "warpgroups that take turns");
static_assert(STAGES >= 2, "a stage is filled while another is read");
static_assert(THREADS == CONSUMERS * 128 + 128, "the consumers and one warpgroup that loads");
static_assert(SHARED_BYTES == RESIDENT_BYTES + GROUPS * STAGES * STAGE_PITCH + CONSUMERS * BOX_BYTES,
              "the host allocates what is used");
static_assert(CONSUMERS * 128 * REGISTERS + 128 * 24 <= 65536 && REGISTERS % 8 == 0, "registers of a multiprocessor");

#if IN_INT8
typedef int Accumulator;
#else
typedef float Accumulator;
#endif

struct Geometry {
    char* output;           // at the first chunk that the layer writes, or an output's first number; not where STAGED
    const char* weights;    // packed
    const float4* affine;   // (scale, bias) of two columns each
    const int* background;  // [part][y % PERIOD][x % PERIOD][column]: of a part of background; not read where PARTS is 1
    long long out_plane;    // bytes of a plane: a chunk's, or a channel's of an output
    Tiles tiles;            // of output pixels before upsampling
    int out_pitch;          // pixels of a padded row; of an output's row without padding
    int height, width;      // output pixels before upsampling
    int column_tiles;
    int channels;           // that the layer writes
};

static_assert(sizeof(Geometry) == ARGUMENT_BYTES, "the host's structure is this one");

// Bytes from a warpgroup's first input pixel to the first one that a block reads for a tap.
__device__ __forceinline__ constexpr u32 in_offset(int block, int tap)
{
    const int y = block / ACROSS * BLOCK_ROWS * STRIDE + tap / KERNEL;
    const int x = block % ACROSS * BLOCK_COLUMNS * STRIDE + tap % KERNEL;
    return (y * IN_COLS + x) * 16;
}
