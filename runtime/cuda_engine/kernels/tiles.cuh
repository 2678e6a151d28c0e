// The tiles of a launch: all of a map, row by row, or those of a list in device memory, which activity.cu makes for every
// frame. A tile is its row and its column among tiles, and a bit for each part of the input that it must read (parts.py).
//
// Compile-time parameter: MOST_PARTS of a layer's input (runtime.cuda_engine.parts).
//
// A list is filled from both ends, so that tiles that read every part come first and those that take less time fill the gaps:
// `front` of them from its beginning, `back` of them from its end, which is the last one's place.
//
// Constraints: at most 16,384 rows and columns of tiles. A list is whole before the first kernel that reads it begins
// (activity_list does not let the next kernel begin early), so that it may be read ahead of `wait_for_previous`.
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only layers          all of a map, on a GPU
//   python -m runtime.cuda_engine.selfcheck --only skipping        lists, on a GPU
//   python -m pytest tests/runtime/test_cuda_engine_activity.py    lists without one

#if !defined(MOST_PARTS)
#error "tiles.cuh: a compile-time parameter is not defined"
#endif

#define ALL_PARTS ((1u << MOST_PARTS) - 1)

struct TileCounts {
    int front, back;
};

struct Tiles {
    const unsigned int* list;  // null: all
    const TileCounts* counts;  // of the list
    int across, all;           // tiles in a row of tiles; in all, which is the list's length
};

static_assert(MOST_PARTS <= 4, "14 bits each for the row and the column of a tile");

// runtime.cuda_engine.activity.tile_words makes the same.
__device__ __forceinline__ unsigned int tile_word(int row, int column, unsigned int parts) {
    return (unsigned int)row << (14 + MOST_PARTS) | (unsigned int)column << MOST_PARTS | parts;
}
__device__ __forceinline__ int tile_row(unsigned int tile) { return tile >> (14 + MOST_PARTS); }
__device__ __forceinline__ int tile_column(unsigned int tile) { return tile >> MOST_PARTS & 0x3fff; }
__device__ __forceinline__ bool reads_part(unsigned int tile, int part) { return tile >> part & 1; }

// By value: a choice between a place in memory and one among a kernel's arguments would be a pointer to either.
__device__ __forceinline__ TileCounts count_tiles(const Tiles tiles) {
    TileCounts counts = {tiles.all, 0};
    if (tiles.list) {
        counts.front = ((const volatile TileCounts*)tiles.counts)->front;
        counts.back = ((const volatile TileCounts*)tiles.counts)->back;
    }
    return counts;
}

// The tile at an index below front + back.
__device__ __forceinline__ unsigned int tile_at(const Tiles tiles, const TileCounts counts, int index) {
    if (!tiles.list) return tile_word(index / tiles.across, index % tiles.across, ALL_PARTS);
    const int place = index < counts.front ? index : tiles.all - 1 - (index - counts.front);
    return ((const volatile unsigned int*)tiles.list)[place];
}

// What `tile_at` gives where an index is counted from the front: read before the counts are known, so that both reads of
// device memory take the time of one.
__device__ __forceinline__ unsigned int guess_tile(const Tiles tiles, int index) {
    return tiles.list && index < tiles.all ? ((const volatile unsigned int*)tiles.list)[index] : 0;
}

__device__ __forceinline__ unsigned int first_tile(const Tiles tiles, const TileCounts counts, int index, unsigned int guess) {
    return tiles.list && index < counts.front ? guess : tile_at(tiles, counts, index);
}
