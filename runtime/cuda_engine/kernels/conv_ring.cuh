// What both kernels of a convolution do besides multiplying: a block's share of the work, its shared memory and barriers,
// and the warps that load. Parameters as in conv_geometry.cuh, which stands before it.
//
// One warp for each consumer group keeps a ring of stages in shared memory full.

#if !defined(TAPS)
#error "conv_ring.cuh: conv_geometry.cuh must stand before it"
#endif

// Barriers: two for every stage of every group, those of weights that stay, slab by slab, and every warpgroup's turn.
#define BARRIERS (GROUPS * STAGES * 2 + SLABS + CONSUMERS)

// Addresses of shared memory: weights that stay, the rings behind them, barriers.
struct Ring {
    u32 weights, stages, full, empty, loaded, turns;
};

__device__ __forceinline__ Ring set_up(const char* memory, const u64* barriers)
{
    Ring ring;
    ring.weights = shared_address(memory);
    ring.stages = ring.weights + RESIDENT_BYTES;
    ring.full = shared_address(barriers);
    ring.empty = ring.full + GROUPS * STAGES * 8;
    ring.loaded = ring.empty + GROUPS * STAGES * 8;
    ring.turns = ring.loaded + SLABS * 8;
    if (threadIdx.x == 0) {
        for (int i = 0; i < GROUPS * STAGES; ++i) {
            barrier_init(ring.full + i * 8, 1);
            barrier_init(ring.empty + i * 8, WARPGROUPS * 4);  // one arrival of each warp
        }
        for (int slab = 0; slab < SLABS; ++slab) barrier_init(ring.loaded + slab * 8, 1);
        if (ORDERED)
            for (int i = 0; i < CONSUMERS; ++i) barrier_init(ring.turns + i * 8, 4);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    return ring;
}

// Resident: a block keeps one column tile and goes over pixels. Else column tiles of the same pixels follow each other. Items go
// round the blocks before a block's next group gets one: the last ones are on as many multiprocessors as can be.
struct Share {
    int lanes, fixed, first, items;
    TileCounts counts;
};

__device__ __forceinline__ Share my_share(const Geometry& g, const TileCounts& counts)
{
    Share share;
    share.lanes = RESIDENT ? gridDim.x / g.column_tiles : gridDim.x;
    share.fixed = RESIDENT ? blockIdx.x % g.column_tiles : 0;
    share.first = RESIDENT ? blockIdx.x / g.column_tiles : blockIdx.x;
    share.items = (counts.front + counts.back) * (RESIDENT ? 1 : g.column_tiles);
    share.counts = counts;
    return share;
}

__device__ __forceinline__ u32 tile_of(const Geometry& g, const Share& share, int item)
{
    return tile_at(g.tiles, share.counts, RESIDENT ? item : item / g.column_tiles);
}
// Of a group's first item, which was guessed before the counts were known.
__device__ __forceinline__ u32 guess_of(const Geometry& g, int item)
{
    return guess_tile(g.tiles, RESIDENT ? item : item / g.column_tiles);
}
__device__ __forceinline__ u32 first_tile_of(const Geometry& g, const Share& share, int item, u32 guess)
{
    return item < share.items ? first_tile(g.tiles, share.counts, RESIDENT ? item : item / g.column_tiles, guess) : 0;
}
__device__ __forceinline__ int column_tile_of(const Geometry& g, const Share& share, int item)
{
    return RESIDENT ? share.fixed : item % g.column_tiles;
}

__device__ __forceinline__ bool is_left_out(u32 tile, int slab)
{
    return PARTS > 1 && !reads_part(tile, slab / (SLABS / PARTS));
}

// Warpgroups multiply one after the other, so that one stores while the others' products keep the tensor cores busy: a tile
// each where they have tiles of their own, a stage each where they share them. All at once they would also store at once.
__device__ __forceinline__ void take_turn(const Ring& ring, int warpgroup, u32& parity)
{
    barrier_wait(ring.turns + warpgroup * 8, parity);
    parity ^= 1;
}
__device__ __forceinline__ void pass_turn(const Ring& ring, int warpgroup)
{
    barrier_arrive(ring.turns + (warpgroup + 1 == CONSUMERS ? 0 : warpgroup + 1) * 8);
}

// One thread for each group: an instruction loads all that a stage needs.
__device__ __forceinline__ void load_stages(const TensorMap& input, const Geometry& g, const Ring& ring, const Share& share, int group, int item, u32 guess)
{
    if (RESIDENT_BYTES && group == 0)
        for (int slab = 0; slab < SLABS; ++slab) {
            barrier_expect(ring.loaded + slab * 8, SLAB_WEIGHT_BYTES);
            bulk_load(ring.weights + slab * SLAB_WEIGHT_BYTES,
                      g.weights + ((long long)share.fixed * SLABS + slab) * SLAB_WEIGHT_BYTES, SLAB_WEIGHT_BYTES,
                      ring.loaded + slab * 8);
        }
    const u32 stages = ring.stages + group * STAGES * STAGE_PITCH;
    int stage = 0;
    u32 parity = 1, next = first_tile_of(g, share, item, guess);
    wait_for_previous();
    for (; item < share.items; item += share.lanes * GROUPS) {
        const u32 tile = next;
        const int column_tile = column_tile_of(g, share, item), following = item + share.lanes * GROUPS;
        // Read ahead: a list lies in device memory.
        if (following < share.items) next = tile_of(g, share, following);
        const int y = tile_row(tile) * TILE_ROWS, x = tile_column(tile) * TILE_COLUMNS;
        for (int slab = 0; slab < SLABS; ++slab) {
            if (is_left_out(tile, slab)) continue;
            const u32 barrier = ring.full + (group * STAGES + stage) * 8, target = stages + stage * STAGE_PITCH;
            barrier_wait(ring.empty + (group * STAGES + stage) * 8, parity);
            barrier_expect(barrier, STAGE_BYTES);
            box_load(target, input, x * STRIDE - PADDING + 1, y * STRIDE - PADDING + 1, slab * SLAB_CHUNKS, barrier);
            if (!RESIDENT)
                bulk_load(target + IN_BYTES,
                          g.weights + ((long long)column_tile * SLABS + slab) * SLAB_WEIGHT_BYTES,
                          SLAB_WEIGHT_BYTES, barrier);
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
    }
}
