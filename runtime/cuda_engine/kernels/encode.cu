// The last kernel of pillars.cu: pillars to the canvas.
//
// A warp takes ENCODE_GROUP pillars at a time, four as tuned. Most pillars have a few points, so it loads, sorts and
// decorates those of all at once, eight lanes a pillar; then it computes the layers pillar by pillar, a lane being a
// channel. A pillar with more points is loaded in its turn by the whole warp, 32 points at a time.
//
// Compile-time parameters: those of pillars.cu, which stands before decoration.cu, pfn.cu and this file.
//
// Constraints (what the compiler can see is asserted below), besides those of pillars.cu and pfn.cu:
//   launch      any number of blocks of ENCODE_WARPS warps, ENCODE_BLOCKS of them at a time on a multiprocessor
//   alignment   the canvas to 16 bytes
//   scale       OUT_SCALE above zero
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only pillars         on a GPU, against the encoder in numpy
//   python -m pytest tests/runtime/test_cuda_engine_ends.py        the same without one

#if !defined(PER_LANE) || !defined(ROWS)
#error "encode.cu: pfn.cu must stand before it"
#endif

static_assert(1 <= ENCODE_WARPS && ENCODE_WARPS <= 32 && 1 <= ENCODE_BLOCKS, "at most 1024 threads");

__device__ __forceinline__ uint4 load_pillar(const uint4* pillars, int pillar, int num_pillars) {
    return pillar < num_pillars ? pillars[pillar] : make_uint4(0, 0, 0, 0);
}

// Four (two) neighbouring lanes' codes (float16 numbers) as one word of the canvas; in a dense canvas each lane's own.
__device__ __forceinline__ void write_canvas(char* cell, long long plane, float value, int channel, int lane) {
#if OUT_DENSE
    if (channel < CHANNELS) *(float*)(cell + channel * plane) = value;
#else
#if OUT_INT8
    // Not negative after ReLU; the bound keeps infinity out of the quotient.
    const float code = fminf(rintf(quotient(fminf(value, 256.0f * OUT_SCALE), OUT_SCALE, 1.0f / OUT_SCALE)), 127.0f);
    u32 word = channel < CHANNELS ? ((u32)(int)code & 0xffu) << (8 * (lane & 3)) : 0;
    word |= __shfl_xor_sync(ALL, word, 1);
    word |= __shfl_xor_sync(ALL, word, 2);
    const bool writes = (lane & 3) == 0;
    const int in_chunk = channel % 16;
#else
    u32 word = channel < CHANNELS ? half_bits(value) << (16 * (lane & 1)) : 0;
    word |= __shfl_xor_sync(ALL, word, 1);
    const bool writes = (lane & 1) == 0;
    const int in_chunk = channel % 8 * 2;
#endif
    if (writes && channel < CHANNELS) *(u32*)(cell + channel / CHUNK_CHANNELS * plane + in_chunk) = word;
#endif
}

// weights: as the encoder's layers load them.
// features: [pillar][CHANNELS] float32 before quantization, for whoever inspects a frame; null leaves them out.
extern "C" __global__ void __launch_bounds__(ENCODE_WARPS * 32, ENCODE_BLOCKS) pillars_encode(
    const float* points, const u32* order, const uint4* pillars, const int* counters, const float* weights,
    char* canvas, long long plane, float* features)
{
    __shared__ __align__(16) float few_rows[ENCODE_WARPS][32 * FEATURE_PITCH];
    __shared__ __align__(16) float many_rows[ENCODE_WARPS][32 * FEATURE_PITCH];
    __shared__ LayerMemory memory;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const int slot = lane % SEGMENT, member = lane / SEGMENT;
    begin_with_next();
    const float reciprocal = 1.0f / (float)(lane + 1);
    Layers layers;
    layers.load(memory, weights, warp, lane);
    wait_for_previous();

    // Loads run ahead of their use: pillars' records by three groups, indices by two, points by one.
    const int num_pillars = counters[COUNTER_VOXELS], stride = gridDim.x * ENCODE_WARPS * ENCODE_GROUP;
    int first = (blockIdx.x * ENCODE_WARPS + warp) * ENCODE_GROUP;
    uint4 pillar = load_pillar(pillars, first + member, num_pillars);
    uint4 next = load_pillar(pillars, first + stride + member, num_pillars);
    uint4 after = load_pillar(pillars, first + 2 * stride + member, num_pillars);
    int most = most_points(pillar);
    float value[COLUMNS];
    load_point(value, points, sort_lanes(load_index(order, pillar, slot), sort_size(most), lane));
    u32 index = load_index(order, next, slot);
    for (; first < num_pillars; first += stride) {
        const int next_most = most_points(next);
        float ahead[COLUMNS];
        load_point(ahead, points, sort_lanes(index, sort_size(next_most), lane));
        index = load_index(order, after, slot);
        const uint4 last = load_pillar(pillars, first + 3 * stride + member, num_pillars);

        const int few = (int)pillar.z <= FEW ? (int)pillar.z : 0;
        float mean[3];
        mean_of_lanes<SEGMENT>(mean, value, few, most, lane, reciprocal);
        if (slot < few) decorate(few_rows[warp] + lane * FEATURE_PITCH, value, mean, pillar.w);
        for (int m = 0; m < ENCODE_GROUP && first + m < num_pillars; ++m) {
            const u32 place = __shfl_sync(ALL, pillar.w, m * SEGMENT);
            int count = (int)__shfl_sync(ALL, pillar.z, m * SEGMENT);
            const bool is_many = count > FEW;
            u32 list[SLOTS];
            if (is_many) {
                first_points(list, order, __shfl_sync(ALL, pillar.y, m * SEGMENT), count, lane);
                count = min(count, MAX_POINTS);
#if SLOTS > 1
                mean_of_slots(mean, list, points, count, lane);
#endif
            }
            layers.begin(count);
            int done = 0;
            do {
                const float* rows = few_rows[warp] + m * SEGMENT * FEATURE_PITCH;
                if (is_many) {
                    float many[COLUMNS];
                    load_point(many, points, list[0]);
#if SLOTS == 1
                    mean_of_lanes<32>(mean, many, count, count, lane, reciprocal);
#endif
                    if (done + lane < count) decorate(many_rows[warp] + lane * FEATURE_PITCH, many, mean, place);
                    rows = many_rows[warp];
                    for (int s = 1; s < SLOTS; ++s) list[s - 1] = list[s];
                }
                __syncwarp();
                layers.add(memory, rows, min(count - done, 32), warp, lane);
                done += 32;
                // The next points overwrite the rows that slower lanes may still read.
                if (SLOTS > 1) __syncwarp();
            } while (SLOTS > 1 && done < count);
            for (int p = 0; p < PER_LANE; ++p) {
                const int channel = lane + 32 * p;
                const float result = layers.result(memory, p, warp, lane);
                write_canvas(canvas + canvas_offset(place), plane, result, channel, lane);
                if (features && channel < CHANNELS) features[(long long)(first + m) * CHANNELS + channel] = result;
            }
            // So does the next pillar.
            __syncwarp();
        }
        for (int c = 0; c < COLUMNS; ++c) value[c] = ahead[c];
        most = next_most;
        pillar = next;
        next = after;
        after = last;
    }
}
