// Past clouds on the device: joined to the present one, moved into its frame, and without the points of the vehicle itself.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.device_sweeps`:
//   CAPACITY        points of the joined cloud; SWEEP_CAPACITY of one; SWEEP_STRIDE numbers from one cloud to the next
//   COLUMNS         of a point, x y z first; LAG_COLUMN is the time lag's
//   CLOSE           metres: points with |x| and |y| below it are left out
//   JOIN_THREADS, COMPACT_THREADS   of a block of each kernel
//   MOVE_?          indices of a sweep's doubles, and how many there are: [MOVE_A] is A of A p + b by rows with b behind
//                   each, so that there are twelve of them
//
// Constraints
//   launches    any number of blocks for sweeps_join, one for sweeps_compact
//   alignment   clouds to 4 bytes, moves to 8
//   state       sweeps_compact works in place: every point moves towards the front, or stays
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only sweeps          on a GPU, against runtime.sweeps
//   python -m pytest tests/runtime/test_sweeps.py                  the same without one

#if !defined(CAPACITY) || !defined(SWEEP_CAPACITY) || !defined(SWEEP_STRIDE) || !defined(COLUMNS) || !defined(LAG_COLUMN) || \
    !defined(CLOSE) || !defined(JOIN_THREADS) || !defined(COMPACT_THREADS) || !defined(MOVE_SLOT) || !defined(MOVE_IS_MOVED) || \
    !defined(MOVE_LAG) || !defined(MOVE_A) || !defined(NUM_MOVE)
#error "sweeps.cu: a compile-time parameter is not defined"
#endif

#define ALL 0xffffffffu

static_assert(SWEEP_STRIDE >= SWEEP_CAPACITY * COLUMNS && SWEEP_STRIDE % 4 == 0, "clouds begin at multiples of 16 bytes");
static_assert(3 <= LAG_COLUMN && LAG_COLUMN < COLUMNS, "x, y and z are no time lag");
static_assert(COMPACT_THREADS % 32 == 0 && COMPACT_THREADS <= 1024 && JOIN_THREADS <= 1024, "whole warps");
static_assert(NUM_MOVE == MOVE_A + 1, "the first of twelve numbers is the last of those with a name");

#define MOVE_SIZE (NUM_MOVE + 11)

__device__ __forceinline__ int sweep_count(const int* counts, int slot) {
    return max(0, min(counts[slot], SWEEP_CAPACITY));
}

// moves: {number of sweeps, then MOVE_SIZE doubles of each, in the order in which their points are joined}
// ring: [slot][SWEEP_STRIDE], the first of it [SWEEP_CAPACITY][COLUMNS]; counts: points of each slot
extern "C" __global__ void __launch_bounds__(JOIN_THREADS) sweeps_join(
    const double* moves, const float* ring, const int* counts, float* points, int* count)
{
    const int first = blockIdx.x * JOIN_THREADS + threadIdx.x, threads = gridDim.x * JOIN_THREADS;
    const int sweeps = (int)moves[0];
    int base = 0;
    for (int sweep = 0; sweep < sweeps; ++sweep) {
        const double* move = moves + 1 + sweep * MOVE_SIZE;
        const int slot = (int)move[MOVE_SLOT], number = min(sweep_count(counts, slot), CAPACITY - base);
        const float lag = (float)move[MOVE_LAG];
        const bool is_moved = move[MOVE_IS_MOVED] != 0.0;
        const float* source = ring + (long long)slot * SWEEP_STRIDE;
        for (int i = first; i < number; i += threads) {
            float value[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) value[c] = source[(long long)i * COLUMNS + c];
            if (is_moved) {
                const double x = value[0], y = value[1], z = value[2];
                for (int row = 0; row < 3; ++row) {
                    const double* a = move + MOVE_A + 4 * row;
                    value[row] = (float)(((x * a[0] + y * a[1]) + z * a[2]) + a[3]);
                }
            }
            value[LAG_COLUMN] = lag;
            for (int c = 0; c < COLUMNS; ++c) points[(long long)(base + i) * COLUMNS + c] = value[c];
        }
        base += number;
    }
    if (first == 0) *count = base;
}

extern "C" __global__ void __launch_bounds__(COMPACT_THREADS) sweeps_compact(float* points, int* count)
{
    __shared__ int partial[COMPACT_THREADS / 32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const int number = max(0, min(*count, SWEEP_CAPACITY));
    int kept = 0;
    for (int start = 0; start < number; start += COMPACT_THREADS) {
        const int i = start + threadIdx.x;
        float value[COLUMNS];
        bool keeps = i < number;
        if (keeps) {
            for (int c = 0; c < COLUMNS; ++c) value[c] = points[(long long)i * COLUMNS + c];
            keeps = !(fabsf(value[0]) < CLOSE && fabsf(value[1]) < CLOSE);
        }
        const unsigned int votes = __ballot_sync(ALL, keeps);
        if (lane == 0) partial[warp] = __popc(votes);
        // All of these points are read before any of them is overwritten.
        __syncthreads();
        int place = kept + __popc(votes & ((1u << lane) - 1));
        for (int w = 0; w < COMPACT_THREADS / 32; ++w) {
            if (w < warp) place += partial[w];
            kept += partial[w];
        }
        if (keeps)
            for (int c = 0; c < COLUMNS; ++c) points[(long long)place * COLUMNS + c] = value[c];
        __syncthreads();
    }
    if (threadIdx.x == 0) *count = kept;
}
