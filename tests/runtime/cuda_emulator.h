// CUDA C++ of simple kernels as plain C++: one block after the other, a fiber for each thread, no optimization of any
// order. Every lane of a warp must take part in its collectives. Enough for kernels without tensor cores and copies.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct Index3 {
    int x, y, z;
};
static Index3 threadIdx, blockIdx, blockDim, gridDim;

struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {

constexpr size_t kStack = 256 * 1024;

struct Fiber {
    jmp_buf state;
    ucontext_t context;
    bool started = false, done = false;
};
struct Warp {
    int arrived = 0;
    long generation = 0;
    uint64_t slots[32];
};

inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline std::vector<char*> stacks;
inline jmp_buf scheduler;
inline int current, alive, block_arrived;
inline long block_generation;
inline long idle;  // switches since anything happened
inline void (*body)(void*);
inline void* body_arguments;

inline void yield() {
    if (++idle > 4000000) {
        std::fprintf(stderr, "no thread can go on: a collective without all of its threads?\n");
        std::abort();
    }
    if (!_setjmp(fibers[current].state)) _longjmp(scheduler, 1);
}

inline void entry() {
    body(body_arguments);
    fibers[current].done = true;
    --alive;
    idle = 0;
    _longjmp(scheduler, 1);
}

inline void run_block(int threads) {
    fibers.assign(threads, Fiber());
    warps.assign((threads + 31) / 32, Warp());
    while ((int)stacks.size() < threads)
        stacks.push_back((char*)mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    alive = threads;
    block_arrived = 0;
    idle = 0;
    static volatile int next;
    next = 0;
    while (alive) {
        current = next;
        next = (next + 1) % threads;
        if (fibers[current].done) continue;
        threadIdx = {current, 0, 0};
        if (_setjmp(scheduler)) continue;
        Fiber& fiber = fibers[current];
        if (fiber.started) _longjmp(fiber.state, 1);
        fiber.started = true;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks[current];
        fiber.context.uc_stack.ss_size = kStack;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, entry, 0);
        setcontext(&fiber.context);
    }
}

inline void block_barrier() {
    const long generation = block_generation;
    if (++block_arrived >= alive) {
        block_arrived = 0;
        ++block_generation;
        idle = 0;
        return;
    }
    while (generation == block_generation) {
        // Threads that ended count as arrived.
        if (block_arrived >= alive) {
            block_arrived = 0;
            ++block_generation;
            idle = 0;
            return;
        }
        yield();
    }
}

inline void warp_barrier() {
    Warp& warp = warps[current / 32];
    const long generation = warp.generation;
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        ++warp.generation;
        idle = 0;
        return;
    }
    while (generation == warps[current / 32].generation) yield();
}

template <class T>
T exchange(T value, int source) {
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    Warp& warp = warps[current / 32];
    warp.slots[current % 32] = word;
    warp_barrier();
    word = warp.slots[source & 31];
    warp_barrier();
    std::memcpy(&value, &word, sizeof value);
    return value;
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}

template <class... A>
struct Bound {
    void (*kernel)(A...);
    void** arguments;
    static void run(void* self) {
        auto* bound = (Bound*)self;
        call(bound->kernel, bound->arguments, std::index_sequence_for<A...>());
    }
};

template <class... A>
void launch(void (*kernel)(A...), int x, int y, int z, int threads, void** arguments) {
    Bound<A...> bound{kernel, arguments};
    body = Bound<A...>::run;
    body_arguments = &bound;
    gridDim = {x, y, z};
    blockDim = {threads, 1, 1};
    for (int k = 0; k < z; ++k)
        for (int j = 0; j < y; ++j)
            for (int i = 0; i < x; ++i) {
                blockIdx = {i, j, k};
                run_block(threads);
            }
}

}  // namespace emulator

#define EMULATED_KERNEL(name)                                                                  \
    extern "C" void launch_##name(int x, int y, int z, int threads, void** arguments) {        \
        emulator::launch(name, x, y, z, threads, arguments);                                   \
    }

static inline void __syncthreads() { emulator::block_barrier(); }
static inline void __syncwarp() { emulator::warp_barrier(); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    return emulator::exchange(value, lane);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::exchange(value, (threadIdx.x & 31) ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta) {
    const int lane = threadIdx.x & 31;
    return emulator::exchange(value, lane >= delta ? lane - delta : lane);
}
static inline unsigned __ballot_sync(unsigned, bool vote) {
    emulator::Warp& warp = emulator::warps[emulator::current / 32];
    warp.slots[threadIdx.x & 31] = vote;
    emulator::warp_barrier();
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane) votes |= (unsigned)warp.slots[lane] << lane;
    emulator::warp_barrier();
    return votes;
}
static inline unsigned __match_any_sync(unsigned, unsigned value) {
    unsigned alike = 0;
    for (int lane = 0; lane < 32; ++lane) alike |= (unsigned)(emulator::exchange(value, lane) == value) << lane;
    return alike;
}
static inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) {
        const unsigned other = emulator::exchange(value, lane);
        if (mask >> lane & 1) bits |= other;
    }
    return bits;
}
static inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }

template <class T, class U>
T atomicAdd(T* address, U value) {
    const T old = *address;
    *address = old + (T)value;
    return old;
}
template <class T, class U>
T atomicMax(T* address, U value) {
    const T old = *address;
    if ((T)value > old) *address = (T)value;
    return old;
}
template <class T, class U>
T atomicOr(T* address, U value) {
    const T old = *address;
    *address = old | (T)value;
    return old;
}
template <class T, class U>
T atomicExch(T* address, U value) {
    const T old = *address;
    *address = (T)value;
    return old;
}

static inline void __threadfence() {}
static inline int __popc(unsigned value) { return __builtin_popcount(value); }
static inline int __clz(int value) { return value ? __builtin_clz((unsigned)value) : 32; }
static inline int __ffs(unsigned value) { return __builtin_ffs((int)value); }
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
template <class T>
static inline T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
static inline T max(T a, T b) {
    return a < b ? b : a;
}

// In place of kernels/intrinsics.cuh.
static inline void store_kept(unsigned* target, unsigned value) { *target = value; }
static inline int add_kept(int* target, int value) { return atomicAdd(target, value); }
static inline unsigned half_bits(float value) {
    const _Float16 half = (_Float16)value;
    unsigned short bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}
static inline float half_value(unsigned bits) {
    const unsigned short word = (unsigned short)bits;
    _Float16 half;
    std::memcpy(&half, &word, 2);
    return (float)half;
}
