// The tiles of a launch: all of a map, row by row, or those of a list in device memory, which activity.cu makes for every
// frame. A tile is its row and its column among tiles, and a bit for each part of the input that it must read (parts.py).
//
// Constraints: at most 16,384 rows and columns of tiles, and four parts. A list is whole before the first kernel that reads it begins
// (activity_list does not let the next kernel begin early), so that it may be read ahead of `wait_for_previous`.
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only layers          all of a map, on a GPU
//   python -m runtime.cuda_engine.selfcheck --only skipping        lists, on a GPU
//   python -m pytest tests/runtime/test_cuda_engine_activity.py    lists without one

struct Tiles {
    const unsigned int* list;  // null: all
    const int* count;          // of the list
    int across, all;           // tiles in a row of tiles; in all
};

// runtime.cuda_engine.activity.tile_words makes the same.
__device__ __forceinline__ unsigned int tile_word(int row, int column, unsigned int parts) {
    return (unsigned int)row << 18 | (unsigned int)column << 4 | parts;
}
__device__ __forceinline__ int tile_row(unsigned int tile) { return tile >> 18; }
__device__ __forceinline__ int tile_column(unsigned int tile) { return tile >> 4 & 0x3fff; }
__device__ __forceinline__ bool reads_part(unsigned int tile, int part) { return tile >> part & 1; }

// By value: a choice between a place in memory and one among a kernel's arguments would be a pointer to either.
__device__ __forceinline__ int count_tiles(const Tiles tiles) {
    if (!tiles.list) return tiles.all;
    return *(const volatile int*)tiles.count;
}

__device__ __forceinline__ unsigned int tile_at(const Tiles tiles, int index) {
    if (tiles.list) return ((const volatile unsigned int*)tiles.list)[index];
    return tile_word(index / tiles.across, index % tiles.across, 15);
}
