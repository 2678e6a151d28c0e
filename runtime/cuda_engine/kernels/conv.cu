// The kernel of kernels/conv_geometry.cuh, which has its parameters, arguments and constraints and stands before it.
//
// One warp for each consumer group keeps a ring of stages in shared memory full; the groups multiply and store.
// Checked by: as conv_geometry.cuh

#if !defined(TAPS)
#error "conv.cu: conv_geometry.cuh must stand before it"
#endif

__device__ __forceinline__ bool is_left_out(u32 tile, int slab)
{
    return PARTS > 1 && !reads_part(tile, slab / (SLABS / PARTS));
}

// Adds what the parts that a tile leaves out come to, all of them background.
__device__ __forceinline__ void add_background(
    Accumulator (&sums)[BLOCKS][N_TILE / 2], const Geometry& g, u32 tile, int y0, int x0, int column_tile, int warp, int lane)
{
    const int y = y0 + first_row(warp), x = x0 + first_column(warp, lane), columns = g.column_tiles * N_TILE;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        if (reads_part(tile, part)) continue;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int phase = (y + rows_to(block, half)) % PERIOD * PERIOD + (x + columns_to(block, half)) % PERIOD;
                const int2* background = (const int2*)(g.background + (part * PERIOD * PERIOD + phase) * columns +
                                                       column_tile * N_TILE) + lane % 4;
#pragma unroll
                for (int j = 0; j < N_TILE / 8; ++j) {
                    const int2 pair = __ldg(background + j * 4);
                    sums[block][j * 4 + half * 2] += pair.x;
                    sums[block][j * 4 + half * 2 + 1] += pair.y;
                }
            }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) conv(
    const __grid_constant__ TensorMap input, const __grid_constant__ Geometry g)
{
    extern __shared__ __align__(128) char memory[];
    __shared__ __align__(8) u64 barriers[GROUPS * STAGES * 2 + SLABS];
    const u32 weights = shared_address(memory);
    const u32 full = shared_address(barriers), empty = full + GROUPS * STAGES * 8, loaded = empty + GROUPS * STAGES * 8;
    const int warpgroup = uniform(threadIdx.x / 128);
    const TileCounts counts = count_tiles(g.tiles);
    if (threadIdx.x == 0) {
        for (int i = 0; i < GROUPS * STAGES; ++i) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, WARPGROUPS * 4);  // one arrival of each warp
        }
        for (int slab = 0; slab < SLABS; ++slab) barrier_init(loaded + slab * 8, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    // Resident: a block keeps one column tile and goes over pixels. Else column tiles of the same pixels follow each other.
    const int lanes = RESIDENT ? gridDim.x / g.column_tiles : gridDim.x;
    const int fixed = RESIDENT ? blockIdx.x % g.column_tiles : 0;
    const int first = RESIDENT ? blockIdx.x / g.column_tiles : blockIdx.x;
    // Items go round the blocks before a block's next group gets one: the last ones are on as many multiprocessors as can be.
    const int group = warpgroup == CONSUMERS ? uniform(threadIdx.x / 32) - CONSUMERS * 4 : warpgroup / WARPGROUPS;
    int item = first + lanes * group;
    const u32 guess = guess_tile(g.tiles, RESIDENT ? item : item / g.column_tiles);
    __syncthreads();
    begin_with_next();

    const int items = (counts.front + counts.back) * (RESIDENT ? 1 : g.column_tiles);
    // Nothing to do: no weights either. The kernel still ends after the one before it.
    if (first >= items) {
        wait_for_previous();
        return;
    }

    if (warpgroup == CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        // One thread for each group: an instruction loads all that a stage needs.
        if (group >= GROUPS || threadIdx.x % 32 > 0) return;
        if (RESIDENT && group == 0)
            for (int slab = 0; slab < SLABS; ++slab) {
                barrier_expect(loaded + slab * 8, SLAB_WEIGHT_BYTES);
                bulk_load(weights + slab * SLAB_WEIGHT_BYTES,
                          g.weights + ((long long)fixed * SLABS + slab) * SLAB_WEIGHT_BYTES, SLAB_WEIGHT_BYTES,
                          loaded + slab * 8);
            }
        const u32 ring = weights + RESIDENT_BYTES + group * STAGES * STAGE_PITCH;
        int stage = 0;
        u32 parity = 1, next = item < items ? first_tile(g.tiles, counts, RESIDENT ? item : item / g.column_tiles, guess) : 0;
        wait_for_previous();
        for (; item < items; item += lanes * GROUPS) {
            const u32 tile = next;
            const int column_tile = RESIDENT ? fixed : item % g.column_tiles, following = item + lanes * GROUPS;
            // Read ahead: a list lies in device memory.
            if (following < items) next = tile_at(g.tiles, counts, RESIDENT ? following : following / g.column_tiles);
            const int y = tile_row(tile) * TILE_ROWS, x = tile_column(tile) * TILE_COLUMNS;
            for (int slab = 0; slab < SLABS; ++slab) {
                if (is_left_out(tile, slab)) continue;
                const u32 barrier = full + (group * STAGES + stage) * 8, target = ring + stage * STAGE_PITCH;
                barrier_wait(empty + (group * STAGES + stage) * 8, parity);
                barrier_expect(barrier, STAGE_BYTES);
                box_load(target, input, x * STRIDE - PADDING + 1, y * STRIDE - PADDING + 1, slab * SLAB_CHUNKS, barrier);
                if (!RESIDENT)
                    bulk_load(target + IN_BYTES,
                              g.weights + ((long long)column_tile * SLABS + slab) * SLAB_WEIGHT_BYTES,
                              SLAB_WEIGHT_BYTES, barrier);
                if (++stage == STAGES) { stage = 0; parity ^= 1; }
            }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    const int part = warpgroup % WARPGROUPS;
    const int warp = uniform(threadIdx.x / 32 % 4), lane = threadIdx.x % 32;
    const u32 ring = weights + RESIDENT_BYTES + group * STAGES * STAGE_PITCH;
    const u32 my_rows = part * PART_ROWS * STRIDE * (IN_COLS * 16);
    Accumulator sums[BLOCKS][N_TILE / 2];
    int stage = 0;
    u32 parity = 0, next = item < items ? first_tile(g.tiles, counts, RESIDENT ? item : item / g.column_tiles, guess) : 0;
    for (; item < items; item += lanes * GROUPS) {
        const u32 tile = next;
        const int column_tile = RESIDENT ? fixed : item % g.column_tiles, following = item + lanes * GROUPS;
        if (following < items) next = tile_at(g.tiles, counts, RESIDENT ? following : following / g.column_tiles);
        int done = 0;  // slabs
        for (int slab = 0; slab < SLABS; ++slab) {
            if (is_left_out(tile, slab)) continue;
            const bool begun = PARTS > 1 ? done > 0 : slab > 0;
            const u32 source = ring + stage * STAGE_PITCH;
            const u32 operand = RESIDENT ? weights + slab * SLAB_WEIGHT_BYTES : source + IN_BYTES;
            // Weights come slab by slab beside a block's first tile.
            if (RESIDENT) barrier_wait(loaded + slab * 8, 0);
            barrier_wait(full + (group * STAGES + stage) * 8, parity);
            const u32 right = operand_base(operand, N_TILE * 16);
#if STRIDE == 1
            const u32 left = operand_base(source + my_rows, PLANE);
            wgmma_fence();
#pragma unroll
            for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
                for (int step = 0; step < SLAB_CHUNKS / 2; ++step) {
                    const u64 b = operand_at(right, (tap * SLAB_CHUNKS + step * 2) * (N_TILE * 16), 128);
#pragma unroll
                    for (int block = 0; block < BLOCKS; ++block) {
                        const u64 a = operand_at(
                            left, step * 2 * PLANE + in_offset(block, tap), BLOCK_ROWS == 1 ? 128 : IN_COLS * 16);
                        multiply(sums[block], a, b, begun || tap + step > 0);
                    }
                }
            wgmma_commit();
            // The product of the stage before has ended: its buffer is free.
            wgmma_wait<1>();
            if (begun && lane == 0)
                barrier_arrive(empty + (group * STAGES + (stage == 0 ? STAGES - 1 : stage - 1)) * 8);
#else
            // Neighbouring output pixels lie two input pixels apart, which no descriptor describes: the left operand goes
            // through registers. Two sets of them, so that loading one overlaps multiplying by the other.
            u32 left[2][BLOCKS][4];
            const u32 matrix = lane / 8, eight = warp * 2 + (matrix & 1), pixel = lane % 8 * (STRIDE * 16);
            const u32 mine = source + my_rows + (matrix >> 1) * PLANE + pixel +
                eight * (STRIDE * 16 * (BLOCK_ROWS == 1 ? 8 : IN_COLS));
#pragma unroll
            for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
                for (int step = 0; step < SLAB_CHUNKS / 2; ++step) {
                    const int set = (tap * (SLAB_CHUNKS / 2) + step) & 1;
                    const u64 b = operand_at(right, (tap * SLAB_CHUNKS + step * 2) * (N_TILE * 16), 128);
#pragma unroll
                    for (int block = 0; block < BLOCKS; ++block)
                        load_matrices(left[set][block], mine + step * 2 * PLANE + in_offset(block, tap));
                    wgmma_fence();
#pragma unroll
                    for (int block = 0; block < BLOCKS; ++block)
                        multiply_registers(sums[block], left[set][block], b, begun || tap + step > 0);
                    wgmma_commit();
                    wgmma_wait<1>();
                }
            wgmma_wait<0>();
            if (lane == 0) barrier_arrive(empty + (group * STAGES + stage) * 8);
#endif
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
            if (PARTS > 1) ++done;
        }
#if STRIDE == 1
        wgmma_wait<0>();
        if ((PARTS == 1 || done > 0) && lane == 0)
            barrier_arrive(empty + (group * STAGES + (stage == 0 ? STAGES - 1 : stage - 1)) * 8);
#endif
        const int y0 = tile_row(tile) * TILE_ROWS + part * PART_ROWS, x0 = tile_column(tile) * TILE_COLUMNS;
        if (PARTS > 1) add_background(sums, g, tile, y0, x0, column_tile, warp, lane);
        store_tile(sums, g, y0, x0, column_tile, warp, lane);
    }
#if RESIDENT && PARTS > 1
    // Tiles may have left some out: a block does not end before all that it asked for has come.
    for (int slab = 0; slab < SLABS; ++slab) barrier_wait(loaded + slab * 8, 0);
#endif
}
