// The tiles of a launch: all of a map, row by row, or those of a list in device memory, which activity.cu makes for every
// frame. A tile is its row and its column among tiles, row << 16 | column.
//
// Constraints: at most 65,536 rows and columns of tiles. A list is whole before the first kernel that reads it begins
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

// By value: a choice between a place in memory and one among a kernel's arguments would be a pointer to either.
__device__ __forceinline__ int count_tiles(const Tiles tiles) {
    if (!tiles.list) return tiles.all;
    return *(const volatile int*)tiles.count;
}

__device__ __forceinline__ unsigned int tile_at(const Tiles tiles, int index) {
    if (tiles.list) return ((const volatile unsigned int*)tiles.list)[index];
    return (unsigned int)(index / tiles.across) << 16 | (unsigned int)(index % tiles.across);
}
