// The kernel of conv_geometry.cuh with channels as columns: X x W, a product's rows being 64 pixels. Parameters, arguments
// and constraints stand there.
//
// Groups multiply and store what conv_ring.cuh loads.
// Checked by: as conv_geometry.cuh

#if !defined(TAPS)
#error "conv.cu: conv_geometry.cuh must stand before it"
#endif

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
    const __grid_constant__ TensorMap input,
#if STAGED
    const __grid_constant__ TensorMap target,  // the layer's chunks without a border: [chunk][row / UPSAMPLE][row % UPSAMPLE][column]
#endif
    const __grid_constant__ Geometry g)
{
    extern __shared__ __align__(128) char memory[];
    __shared__ __align__(8) u64 barriers[BARRIERS];
    const int warpgroup = uniform(threadIdx.x / 128);
    begin_with_next();
    const TileCounts counts = count_tiles(g.tiles);
    const Ring ring = set_up(memory, barriers);
    const Share share = my_share(g, counts);
    const int group = warpgroup == CONSUMERS ? uniform(threadIdx.x / 32) - CONSUMERS * 4 : warpgroup / WARPGROUPS;
    int item = share.first + share.lanes * group;
    const u32 guess = guess_of(g, item);
    __syncthreads();
    // Nothing to do: no weights either, and room for the next kernel. This one still ends after the one before it.
    if (share.first >= share.items) {
        if (blockIdx.x == 0) wait_for_previous();
        return;
    }

    if (warpgroup == CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (group < GROUPS && threadIdx.x % 32 == 0) load_stages(input, g, ring, share, group, item, guess);
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    const int part = warpgroup % WARPGROUPS;
    const int warp = uniform(threadIdx.x / 32 % 4), lane = threadIdx.x % 32;
    const u32 stages = ring.stages + group * STAGES * STAGE_PITCH;
    const u32 my_rows = part * PART_ROWS * STRIDE * (IN_COLS * 16);
#if STAGED
    const u32 boxes = ring.stages + GROUPS * STAGES * STAGE_PITCH + (warpgroup * 4 + warp) * (BOX_BYTES / 4);
    StoredColumns columns = stored_columns(g, share.fixed);
#endif
    Accumulator sums[BLOCKS][N_TILE / 2];
    int stage = 0;
    u32 parity = 0, turn = warpgroup == 0, next = first_tile_of(g, share, item, guess);
    for (; item < share.items; item += share.lanes * GROUPS) {
        const u32 tile = next;
        const int column_tile = column_tile_of(g, share, item), following = item + share.lanes * GROUPS;
        if (following < share.items) next = tile_of(g, share, following);
        // A group that has a tile follows one that had one: turns go on.
        if (ORDERED && WARPGROUPS == 1) take_turn(ring, warpgroup, turn);
        int done = 0;  // slabs
        for (int slab = 0; slab < SLABS; ++slab) {
            if (is_left_out(tile, slab)) continue;
            const bool begun = PARTS > 1 ? done > 0 : slab > 0;
            const u32 source = stages + stage * STAGE_PITCH;
            const u32 operand = RESIDENT ? ring.weights + slab * SLAB_WEIGHT_BYTES : source + IN_BYTES;
            // Weights come slab by slab beside a block's first tile.
            if (RESIDENT) barrier_wait(ring.loaded + slab * 8, 0);
            barrier_wait(ring.full + (group * STAGES + stage) * 8, parity);
            const u32 right = operand_base(operand, N_TILE * 16);
#if STRIDE == 1
            const u32 left = operand_base(source + my_rows, PLANE);
            if (ORDERED && WARPGROUPS > 1) take_turn(ring, warpgroup, turn);
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
            if (ORDERED && WARPGROUPS > 1 && lane == 0) pass_turn(ring, warpgroup);
            // The product of the stage before has ended: its buffer is free.
            wgmma_wait<1>();
            if (begun && lane == 0)
                barrier_arrive(ring.empty + (group * STAGES + (stage == 0 ? STAGES - 1 : stage - 1)) * 8);
#else
            // Neighbouring output pixels lie two input pixels apart, which no descriptor describes: the left operand goes
            // through registers. Three sets of them: one is loaded while two products read theirs or wait for them.
            // Of eight pixels 32 bytes apart, four lie in the banks of the other four. Where planes are an odd number of
            // pixels, the other half of K lies in the other banks: lanes load that one first for the last four pixels.
            constexpr int STEPS = TAPS * (SLAB_CHUNKS / 2);
            constexpr bool EXCHANGES = IN_ROWS * IN_COLS % 2;
            u32 left[3][BLOCKS][4];
            const u32 matrix = lane / 8, eight = warp * 2 + (matrix & 1), pixel = lane % 8;
            const u32 half_of_k = EXCHANGES ? (matrix >> 1) ^ (pixel >> 2) : matrix >> 1;
            const u32 mine = source + my_rows + half_of_k * PLANE + pixel * (STRIDE * 16) +
                eight * (STRIDE * 16 * (BLOCK_ROWS == 1 ? 8 : IN_COLS));
            const auto load = [&](int step) {
                const u32 place = mine + step % (SLAB_CHUNKS / 2) * 2 * PLANE;
#pragma unroll
                for (int block = 0; block < BLOCKS; ++block)
                    load_matrices(left[step % 3][block], place + in_offset(block, step / (SLAB_CHUNKS / 2)));
            };
            load(0);
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                if (step + 1 < STEPS) load(step + 1);
#pragma unroll
                for (int block = 0; block < BLOCKS; ++block) exchange_halves(left[step % 3][block], EXCHANGES && lane >= 16);
                const u64 b = operand_at(
                    right, (step / (SLAB_CHUNKS / 2) * SLAB_CHUNKS + step % (SLAB_CHUNKS / 2) * 2) * (N_TILE * 16), 128);
                wgmma_fence();
#pragma unroll
                for (int block = 0; block < BLOCKS; ++block)
                    multiply_registers(sums[block], left[step % 3][block], b, begun || step > 0);
                wgmma_commit();
                wgmma_wait<1>();
            }
            // The last product may go on where its operands are no part of the stage and of none of the next one's sets.
            if (!RESIDENT || STEPS % 3 != 0) wgmma_wait<0>();
            if (lane == 0) barrier_arrive(ring.empty + (group * STAGES + stage) * 8);
#endif
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
            if (PARTS > 1) ++done;
        }
        if (ORDERED && WARPGROUPS == 1 && lane == 0) pass_turn(ring, warpgroup);
        wgmma_wait<0>();
#if STRIDE == 1
        if ((PARTS == 1 || done > 0) && lane == 0)
            barrier_arrive(ring.empty + (group * STAGES + (stage == 0 ? STAGES - 1 : stage - 1)) * 8);
#endif
        const int y0 = tile_row(tile) * TILE_ROWS + part * PART_ROWS, x0 = tile_column(tile) * TILE_COLUMNS;
        if (PARTS > 1) add_background(sums, g, tile, y0, x0, column_tile, warp, lane);
#if STAGED
        // The boxes are free once the copy engine has read the ones before.
        if (lane == 0) wait_for_sources();
        __syncwarp();
        stage_tile(sums, g, column_tile, lane, boxes);
        fence_for_copies();
        __syncwarp();
        if (!RESIDENT) columns = stored_columns(g, column_tile);
        if (lane == 0) store_boxes(target, columns, y0, x0, warp, boxes);
#else
        store_tile(sums, g, y0, x0, column_tile, warp, lane);
#endif
    }
#if STAGED
    // The next kernel sees what is done when this one ends.
    if (lane == 0) wait_for_stores();
#endif
#if RESIDENT && PARTS > 1
    // Tiles may have left some out: a block does not end before all that it asked for has come.
    if (RESIDENT_BYTES)
        for (int slab = 0; slab < SLABS; ++slab) barrier_wait(ring.loaded + slab * 8, 0);
#endif
}
