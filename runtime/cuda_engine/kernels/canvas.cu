// A dense (channels, height, width) float32 tensor into a blocked and padded map: what verification feeds the network with.
//
// Compile-time parameters: OUT_INT8, CHANNELS. One thread writes one pixel of one chunk.
//
// Constraints
//   launch      blocks.x * threads at least height * width, blocks.y the chunks of the map
//   alignment   the map to 16 bytes; as in hopper.cuh, its border stays as it is
//   scale       above zero where the map is INT8
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only frames       on a GPU
//   python -m pytest tests/runtime/test_cuda_detector.py        the same without one

#if !defined(OUT_INT8) || !defined(CHANNELS)
#error "canvas.cu: a compile-time parameter is not defined"
#endif

#define PER_CHUNK (OUT_INT8 ? 16 : 8)

extern "C" __global__ void pack_map(
    const float* dense, char* map, long long plane, int pitch, int height, int width, float scale)
{
    const int pixel = blockIdx.x * blockDim.x + threadIdx.x, chunk = blockIdx.y;
    if (pixel >= height * width) return;
    unsigned int words[4] = {0, 0, 0, 0};
    for (int i = 0; i < PER_CHUNK; ++i) {
        const int channel = chunk * PER_CHUNK + i;
        const float value = channel < CHANNELS ? dense[(long long)channel * height * width + pixel] : 0.0f;
#if OUT_INT8
        // A division, as QuantizeLinear has it: a product with the reciprocal rounds differently.
        const int code = (int)fminf(fmaxf(rintf(value / scale), -128.0f), 127.0f);
        words[i / 4] |= ((unsigned int)code & 0xffu) << (8 * (i % 4));
#else
        words[i / 2] |= half_bits(value) << (16 * (i % 2));
#endif
    }
    const long long offset = ((long long)(pixel / width + 1) * pitch + pixel % width + 1) * 16;
    *(uint4*)(map + chunk * plane + offset) = make_uint4(words[0], words[1], words[2], words[3]);
}
