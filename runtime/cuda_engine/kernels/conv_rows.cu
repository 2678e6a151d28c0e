// The kernel of conv_geometry.cuh with channels as rows: W x X, a product's rows being 64 channels and its columns up to 256
// pixels, eight columns of the map by up to 32 rows. Parameters, arguments and constraints stand there.
//
// Groups multiply and store what conv_ring.cuh loads. A product of 64 pixels by 64 channels reads 4 KB of shared memory in its 32
// cycles, which is all that this can give. Here weights are read once for 128 or 256 pixels, or stay in registers for the whole
// launch, and are not read at all: 80 or 64 bytes a cycle in place of 128.
// Checked by: as conv_geometry.cuh

#if !defined(TAPS)
#error "conv_rows.cu: conv_geometry.cuh must stand before it"
#endif

#define STEPS (TAPS * SLAB_CHUNKS / 2)  // products of a stage and block

// Adds what the parts that a tile leaves out come to, all of them background; `row` is the lane's first channel.
__device__ __forceinline__ void add_background(
    Accumulator (&sums)[BLOCKS][BLOCK_ROWS * 4], const Geometry& g, u32 tile, int y0, int x0, int row, int lane)
{
    const int columns = g.column_tiles * N_TILE;
    // A tile's rows have the phases of those of the first tile, where it is whole periods high: then equal loads are one.
    const int first = TILE_ROWS % PERIOD == 0 ? 0 : y0;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        if (reads_part(tile, part)) continue;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
            for (int pixel = 0; pixel < 2; ++pixel) {
                const int x = x0 + block % ACROSS * BLOCK_COLUMNS + lane % 4 * 2 + pixel;
                const int* background = g.background + (part * PERIOD * PERIOD + x % PERIOD) * columns + row;
#pragma unroll
                for (int y = 0; y < BLOCK_ROWS; ++y) {
                    const int phase = (first + block / ACROSS * BLOCK_ROWS + y) % PERIOD * (PERIOD * columns);
                    sums[block][y * 4 + pixel] += __ldg(background + phase);
                    sums[block][y * 4 + 2 + pixel] += __ldg(background + phase + 8);
                }
            }
    }
}

#if REGISTER_WEIGHTS
// Core matrices of 8 rows x 16 bytes, of which a lane holds a word: as a product wants its left operand, and as they are packed.
__device__ __forceinline__ void load_weights(u32 (&weights)[STEPS][4], const Geometry& g, int row, int lane)
{
    const char* source = g.weights + (row / N_TILE * N_TILE) * (STEPS * 32) + row % N_TILE * 16 + lane * 4;
#pragma unroll
    for (int step = 0; step < STEPS; ++step)
#pragma unroll
        for (int matrix = 0; matrix < 4; ++matrix)
            weights[step][matrix] = load_word(source + (step * 2 + matrix / 2) * (N_TILE * 16) + matrix % 2 * 128);
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) conv(
    const __grid_constant__ TensorMap input,
#if STAGED
    const __grid_constant__ TensorMap target,  // the layer's chunks without a border: [chunk][row][0][column]
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
    const int channels = part % CHANNEL_PARTS * 64, columns = part / CHANNEL_PARTS * PART_COLUMNS;  // of this warpgroup in a tile
#if STAGED
    const u32 box = ring.stages + GROUPS * STAGES * STAGE_PITCH + (warpgroup * 4 + warp) * (BOX_BYTES / 4);
#endif
    Accumulator sums[BLOCKS][BLOCK_ROWS * 4];
    int stage = 0;
    u32 parity = 0, turn = warpgroup == 0, next = first_tile_of(g, share, item, guess);
#if REGISTER_WEIGHTS
    u32 weights[STEPS][4];
    load_weights(weights, g, share.fixed * N_TILE + channels + warp * 16, lane);
#endif
    for (; item < share.items; item += share.lanes * GROUPS) {
        const u32 tile = next;
        const int column_tile = column_tile_of(g, share, item), following = item + share.lanes * GROUPS;
        if (following < share.items) next = tile_of(g, share, following);
        const int first = column_tile * N_TILE + channels + warp * 16;  // channel of this warp
        const RowAffine affine = load_row_affine(g, first + lane / 4);
        // A group that has a tile follows one that had one: turns go on.
        if (ORDERED && WARPGROUPS == 1) take_turn(ring, warpgroup, turn);
        int done = 0;  // slabs
        for (int slab = 0; slab < SLABS; ++slab) {
            if (is_left_out(tile, slab)) continue;
            const bool begun = PARTS > 1 ? done > 0 : slab > 0;
            const u32 source = stages + stage * STAGE_PITCH;
            // Weights come slab by slab beside a block's first tile.
            if (RESIDENT_BYTES) barrier_wait(ring.loaded + slab * 8, 0);
            barrier_wait(ring.full + (group * STAGES + stage) * 8, parity);
            const u32 right = operand_base(source + columns * 16, PLANE);
#if !REGISTER_WEIGHTS
            const u32 operand = RESIDENT ? ring.weights + slab * SLAB_WEIGHT_BYTES : source + IN_BYTES;
            const u32 left = operand_base(operand + channels * 16, N_TILE * 16);
#endif
            if (ORDERED && WARPGROUPS > 1) take_turn(ring, warpgroup, turn);
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                const int tap = step / (SLAB_CHUNKS / 2), chunk = step % (SLAB_CHUNKS / 2) * 2;
#pragma unroll
                for (int block = 0; block < BLOCKS; ++block) {
                    const u64 b = operand_at(right, chunk * PLANE + in_offset(block, tap), IN_COLS * 16);
#if REGISTER_WEIGHTS
                    multiply_registers(sums[block], weights[step], b, begun || step > 0);
#else
                    multiply(sums[block], operand_at(left, step * 2 * (N_TILE * 16), 128), b, begun || step > 0);
#endif
                }
            }
            wgmma_commit();
            if (ORDERED && WARPGROUPS > 1 && lane == 0) pass_turn(ring, warpgroup);
            // The product of the stage before has ended: its buffer is free.
            wgmma_wait<1>();
            if (begun && lane == 0)
                barrier_arrive(ring.empty + (group * STAGES + (stage == 0 ? STAGES - 1 : stage - 1)) * 8);
            if (++stage == STAGES) { stage = 0; parity ^= 1; }
            if (PARTS > 1) ++done;
        }
        if (ORDERED && WARPGROUPS == 1 && lane == 0) pass_turn(ring, warpgroup);
        wgmma_wait<0>();
        if ((PARTS == 1 || done > 0) && lane == 0)
            barrier_arrive(ring.empty + (group * STAGES + (stage == 0 ? STAGES - 1 : stage - 1)) * 8);
        const int y0 = tile_row(tile) * TILE_ROWS, x0 = tile_column(tile) * TILE_COLUMNS + columns;
        if (PARTS > 1) add_background(sums, g, tile, y0, x0, first + lane / 4, lane);
#if STAGED
        // The box is free once the copy engine has read the one before.
        if (lane == 0) wait_for_sources();
        __syncwarp();
        stage_rows(sums, affine, lane, box);
        fence_for_copies();
        __syncwarp();
        if (lane == 0) box_store(target, x0, 0, y0, first / OUT_CHUNK, box);
#else
        store_rows(sums, g, affine, first / OUT_CHUNK, y0, x0, lane);
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
