// A cloud from page-locked memory of the host to the device, by loads of the kernel itself: as the first node of a frame's
// graph it needs no call of the driver, and it leaves columns behind that the model does not read.
//
// Compile-time parameters, all of them defined by `runtime.cuda_engine.intake`:
//   CAPACITY       points that the buffer holds
//   COLUMNS        of a point, the first ones of a row
//   TAKE_THREADS   of a block
//   TAKE_BATCH     loads of a thread on their way at a time
//   REQUEST_?      indices of the words that the host writes before each launch, and how many there are
//
// Constraints
//   launch      any number of blocks
//   request     64-bit words in page-locked memory: address of the first row, or 0 where the points lie on the device
//               already; points, or less than none where their number does too; numbers from one row to the next,
//               COLUMNS or more
//   alignment   the source to 4 bytes (to 16 it is read faster), points to 16
//   state       none
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only intake          on a GPU
//   python -m pytest tests/runtime/test_intake.py                  the same without one

#if !defined(CAPACITY) || !defined(COLUMNS) || !defined(TAKE_THREADS) || !defined(TAKE_BATCH) || \
    !defined(REQUEST_SOURCE) || !defined(REQUEST_POINTS) || !defined(REQUEST_PITCH) || !defined(NUM_REQUEST)
#error "take.cu: a compile-time parameter is not defined"
#endif

static_assert(1 <= CAPACITY && CAPACITY <= 1 << 24 && 1 <= COLUMNS && COLUMNS <= 64, "indices are counted in 32 bits");
static_assert(TAKE_THREADS >= NUM_REQUEST && TAKE_THREADS <= 1024, "a thread for each word of the request");

extern "C" __global__ void __launch_bounds__(TAKE_THREADS) cloud_take(const long long* request, float* points, int* count)
{
    __shared__ long long words[NUM_REQUEST];
    if (threadIdx.x < NUM_REQUEST) words[threadIdx.x] = request[threadIdx.x];
    __syncthreads();
    const float* source = (const float*)words[REQUEST_SOURCE];
    const long long pitch = words[REQUEST_PITCH];
    const int num_points = (int)max(0ll, min(words[REQUEST_POINTS], (long long)CAPACITY));
    const int first = blockIdx.x * TAKE_THREADS + threadIdx.x, threads = gridDim.x * TAKE_THREADS;
    if (first == 0 && words[REQUEST_POINTS] >= 0) *count = num_points;
    if (!source) return;
    const int numbers = num_points * COLUMNS;
    int done = 0;
    if (pitch == COLUMNS && ((unsigned long long)source & 15) == 0) {
        const int fours = numbers / 4;
        for (int i = first; i < fours; i += TAKE_BATCH * threads) {
            float4 values[TAKE_BATCH];
            for (int b = 0; b < TAKE_BATCH; ++b)
                if (i + b * threads < fours) values[b] = ((const float4*)source)[i + b * threads];
            for (int b = 0; b < TAKE_BATCH; ++b)
                if (i + b * threads < fours) ((float4*)points)[i + b * threads] = values[b];
        }
        done = 4 * fours;
    }
    for (int i = done + first; i < numbers; i += TAKE_BATCH * threads) {
        float values[TAKE_BATCH];
        for (int b = 0; b < TAKE_BATCH; ++b) {
            const int j = i + b * threads;
            if (j < numbers) values[b] = source[j / COLUMNS * pitch + j % COLUMNS];
        }
        for (int b = 0; b < TAKE_BATCH; ++b)
            if (i + b * threads < numbers) points[i + b * threads] = values[b];
    }
}
