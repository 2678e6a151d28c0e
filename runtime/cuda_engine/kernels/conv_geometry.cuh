// One convolution as an implicit matrix product on Hopper's tensor cores, persistent and warp-specialized.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.tiling` and `sources`:
//   IN_INT8, OUT_INT8   element types of the maps (else float16); accumulators are int32 or float32
//   OUT_DENSE           the target is an output: [channel][height][width] float32, of any number of channels
//   N_TILE              output columns of a tile; a column is a channel, or (j, channel) of a transposed convolution
//   KERNEL, STRIDE, PADDING, UPSAMPLE
//   SLAB_CHUNKS, SLABS  16-byte chunks of input channels in a stage, and stages along K
//   PARTS, PERIOD       of the input channels, each of which a tile may leave out: `background`, which then joins its sums,
//                       repeats every so many pixels along both axes
//   GROUPS, WARPGROUPS  consumer groups, each with tiles and a ring of stages of its own, and warpgroups in a group
//   BLOCKS              blocks of 64 output pixels for each warpgroup, ACROSS of them side by side
//   BLOCK_ROWS          rows of a block: 1 (of 64 pixels) or 8 (of 8)
//   STAGES              stages in a ring
//   RESIDENT            weights of the block's columns stay in shared memory; else each stage brings its own
//   RELU
//   REGISTERS           of a consumer's thread
//   THREADS, SHARED_BYTES, ARGUMENT_BYTES   of a launch, and of `Geometry`, as the host has them
// Work: tiles of TILE_ROWS x TILE_COLUMNS pixels by N_TILE columns, all of a map or those of a list (tiles.cuh). With one
// warpgroup to a group, one group's epilogue runs while the other group computes.
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
    !defined(PADDING) || !defined(UPSAMPLE) || !defined(SLAB_CHUNKS) || !defined(SLABS) || !defined(PARTS) || !defined(PERIOD) || !defined(GROUPS) || \
    !defined(WARPGROUPS) || !defined(BLOCKS) || !defined(BLOCK_ROWS) || !defined(ACROSS) || !defined(STAGES) || \
    !defined(RESIDENT) || !defined(RELU) || !defined(REGISTERS) || !defined(THREADS) || !defined(SHARED_BYTES) || \
    !defined(ARGUMENT_BYTES)
#error "conv_geometry.cuh: a compile-time parameter is not defined"
#endif

#define TAPS (KERNEL * KERNEL)
#define PART_ROWS (BLOCKS / ACROSS * BLOCK_ROWS)  // of a warpgroup
#define TILE_ROWS (WARPGROUPS * PART_ROWS)
#define TILE_COLUMNS (ACROSS * BLOCK_COLUMNS)
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

static_assert(N_TILE % 16 == 0 && N_TILE <= 128 && N_TILE % UPSAMPLE == 0, "columns of a product");
static_assert(TILE_CHANNELS % OUT_CHUNK == 0, "a tile's columns fill chunks of the target");
static_assert(!OUT_DENSE || (UPSAMPLE == 1 && !OUT_INT8), "an output is written by a convolution, in float32");
static_assert(SLAB_CHUNKS % 2 == 0, "K of an instruction is two chunks");
static_assert(PARTS == 1 || IN_INT8, "sums of integers alone are the same in any order");
static_assert(PARTS <= 4 && SLABS % PARTS == 0, "bits of a tile, and whole slabs");
static_assert(UPSAMPLE == 1 || UPSAMPLE % 2 == 0, "a transposed convolution stores pairs of pixels");
static_assert(STRIDE == 1 || STRIDE == 2, "what the loads are written for");
static_assert(IN_COLS * 2 <= 256 && IN_ROWS <= 256, "a box of the copy engine");
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
    char* output;           // at the first chunk that the layer writes, or an output's first number
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
