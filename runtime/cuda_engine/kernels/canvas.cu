// A dense (channels, height, width) float32 tensor into a blocked and padded map: what verification feeds the network with.
//
// Compile-time parameters: OUT_INT8, CHANNELS. One thread writes one pixel of one chunk.

#define PER_CHUNK (OUT_INT8 ? 16 : 8)

extern "C" __global__ void pack_map(
    const float* dense, char* map, long long plane, int pitch, int height, int width, float scale)
{
    const int pixel = blockIdx.x * blockDim.x + threadIdx.x, chunk = blockIdx.y;
    if (pixel >= height * width) return;
    const int y = pixel / width, x = pixel % width;
    u32 words[4];
#pragma unroll
    for (int word = 0; word < 4; ++word) {
        float values[PER_CHUNK / 4];
#pragma unroll
        for (int i = 0; i < PER_CHUNK / 4; ++i) {
            const int channel = chunk * PER_CHUNK + word * (PER_CHUNK / 4) + i;
            values[i] = channel < CHANNELS ? dense[(long long)channel * height * width + pixel] : 0.f;
        }
#if OUT_INT8
        // A division, as QuantizeLinear has it: a product with the reciprocal rounds differently.
        words[word] = pack_codes(__float2int_rn(values[0] / scale), __float2int_rn(values[1] / scale),
                                 __float2int_rn(values[2] / scale), __float2int_rn(values[3] / scale));
#else
        words[word] = pack_halves(values[0], values[1]);
#endif
    }
    *(uint4*)(map + chunk * plane + ((long long)(y + 1) * pitch + x + 1) * 16) =
        make_uint4(words[0], words[1], words[2], words[3]);
}
