// What the kernels share: barriers in shared memory, bulk copies, matrix descriptors. Compute capability 9.0 (sm_90a).
//
// Feature maps are "blocked and padded": [chunk][H + 2][W + 2][16 bytes], a chunk being 16 int8 or 8 float16 channels and
// pixel (y, x) lying at row y + 1, column x + 1. The border stays zero, so a convolution's padding costs nothing; one
// instruction loads a box of pixels of several chunks; and eight pixels of a chunk are one core matrix of the tensor
// cores' layout without swizzle, which may start at any pixel: a tap of a 3x3 kernel is an offset.
//
// Constraints
//   compute capability  9.0 alone, as sm_90a
//   addresses           of shared memory: barriers to 8 bytes, operands and bulk copies to 16, sizes multiples of 16
//   warps               wgmma and setmaxnreg take whole warpgroups, load_matrices whole warps
// Checked by
//   python -m runtime.cuda_engine.selfcheck --only layers          on a GPU
//   python -m pytest tests/runtime/test_cuda_engine_network.py     that nvcc compiles it and serializes no wgmma

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#error "hopper.cuh: compute capability 9.0 is needed; compile for sm_90a"
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}

__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(barrier), "r"(parity) : "memory");
}

// Contiguous global memory to shared memory; both ends and the size are multiples of 16 bytes. For weights: what every frame
// reads is the last that leaves the L2 cache.
__device__ __forceinline__ void bulk_load(u32 target, const void* source, u32 bytes, u32 barrier) {
    asm volatile(
        "{\n"
        ".reg .b64 kept;\n"
        "createpolicy.fractional.L2::evict_last.b64 kept, 1.0;\n"
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], kept;\n"
        "}\n" ::"r"(target), "l"(source), "r"(bytes), "r"(barrier) : "memory");
}

// A map as the copy engine knows it, made by the host: [chunk][row][two elements of 8 bytes for each pixel].
struct __align__(64) TensorMap {
    u64 words[16];
};

// A box of pixels to shared memory, [chunk][row][column][16 bytes], zero outside of the map; its size is the tensor map's.
// `target` is a multiple of 128.
__device__ __forceinline__ void box_load(u32 target, const TensorMap& map, int column, int row, int chunk, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
            target), "l"(&map), "r"(column * 2), "r"(row), "r"(chunk), "r"(barrier) : "memory");
}

// The other way: a box of [chunk][row][column][16 bytes] from shared memory into a map whose rows are told apart by their
// number modulo some number, `phase`; what lies outside of the map is not written.
__device__ __forceinline__ void box_store(const TensorMap& map, int column, int phase, int row, int chunk, u32 source) {
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(&map),
        "r"(column * 2), "r"(phase), "r"(row), "r"(chunk), "r"(source) : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until the stores of this thread have read their sources, and until they are done.
__device__ __forceinline__ void wait_for_sources() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void wait_for_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Makes what this thread wrote to shared memory visible to copies that begin once the others know that it has.
__device__ __forceinline__ void fence_for_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Neighbouring words of 32 bits to shared memory; the address is a multiple of their size.
__device__ __forceinline__ void store_words(u32 target, const u32 (&words)[2]) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(target), "r"(words[0]), "r"(words[1]) : "memory");
}
__device__ __forceinline__ void store_words(u32 target, const u32 (&words)[4]) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(target), "r"(words[0]), "r"(words[1]), "r"(words[2]),
                 "r"(words[3]) : "memory");
}

// Matrix descriptor without swizzle: core matrices of 8 rows x 16 bytes; `leading` is the distance of the two that are
// neighbours along K, `stride` the distance of neighbours along M or N. In two steps, so that a product's own share is an
// addition of a constant: where the operands begin, and `offset` bytes behind it.
__device__ __forceinline__ u32 operand_base(u32 address, u32 leading) { return address >> 4 | leading >> 4 << 16; }
__device__ __forceinline__ u64 operand_at(u32 base, u32 offset, u32 stride) {
    return (u64)(stride >> 4) << 32 | (base + (offset >> 4));
}

// The same for all threads of a warp, said such that the compiler knows: what follows from it costs one instruction a warp.
__device__ __forceinline__ u32 uniform(u32 value) { return __shfl_sync(0xffffffffu, value, 0); }

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Four 8 x 16-byte core matrices to registers; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(u32 (&registers)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address));
}

// The halves of K of a left operand of four matrices, where a lane has loaded the second one first.
__device__ __forceinline__ void exchange_halves(u32 (&registers)[4], bool exchanged) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const u32 first = registers[i];
        registers[i] = exchanged ? registers[i + 2] : first;
        registers[i + 2] = exchanged ? first : registers[i + 2];
    }
}

// The other way: lane l has word l % 4 of row l / 4 of each matrix. Where there are fewer than four, the first lanes' addresses count.
__device__ __forceinline__ void store_matrices(u32 address, const u32 (&registers)[1]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(address), "r"(registers[0]) : "memory");
}
__device__ __forceinline__ void store_matrices(u32 address, const u32 (&registers)[2]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(registers[0]),
                 "r"(registers[1]) : "memory");
}
__device__ __forceinline__ void store_matrices(u32 address, const u32 (&registers)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(registers[0]),
                 "r"(registers[1]), "r"(registers[2]), "r"(registers[3]) : "memory");
}

// The same, each matrix transposed: lane l has elements 2 (l % 4) and 2 (l % 4) + 1, of 16 bits, of row l / 4, and a row that is
// stored is a column of these.
__device__ __forceinline__ void store_transposed(u32 address, const u32 (&registers)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(registers[0]),
                 "r"(registers[1]), "r"(registers[2]), "r"(registers[3]) : "memory");
}

// A word of global memory that nobody writes, read here and kept: the compiler may not read it again where it is used.
__device__ __forceinline__ u32 load_word(const void* source) {
    u32 word;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(word) : "l"(source));
    return word;
}

// Four floats of shared memory.
__device__ __forceinline__ float4 shared_float4(u32 address) {
    float4 value;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w) : "r"(address));
    return value;
}

// Two of them; lanes from 16 on give no address.
__device__ __forceinline__ void load_two_matrices(u32 (&registers)[2], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1]) : "r"(address));
}

// A warp's own product of 16 x 16 by 16 x 8 float16, added to its sums or, for add = 0, assigned. Operands lie as a warpgroup's.
__device__ __forceinline__ void multiply_warp(float (&sums)[4], const u32 (&left)[4], const u32 (&right)[2], bool add) {
    if (!add) sums[0] = sums[1] = sums[2] = sums[3] = 0.f;
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// Two floats to two halves, the first in the low bits.
__device__ __forceinline__ u32 pack_halves(float low, float high) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ __forceinline__ u32 pack_halves_relu(float low, float high) {
    u32 packed;
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// A store of 32 bits without a branch around it.
__device__ __forceinline__ void store_if(bool valid, void* target, u32 value) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %0, 0;\n"
        "@p st.global.b32 [%1], %2;\n"
        "}\n" ::"r"((int)valid), "l"(target), "r"(value) : "memory");
}

// Four integers to four int8 codes, saturated, the first in the low byte.
__device__ __forceinline__ u32 pack_codes(int a, int b, int c, int d) {
    u32 high, packed;
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(high) : "r"(d), "r"(c), "r"(0));
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(packed) : "r"(b), "r"(a), "r"(high));
    return packed;
}

// Transposes 8 x 8 elements of 16 bits: lane l gives elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4, and gets those of column
// l / 4.
__device__ __forceinline__ u32 transpose(u32 pair) {
    u32 result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}
