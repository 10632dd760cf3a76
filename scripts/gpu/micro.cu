// What a GPU can do at best in the small: launches, barriers of a grid, exchanges through L2, arithmetic, and steps of
// an LSTM written by hand in the ways that a code generator could write them. One line a figure.
//
//   nvcc -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -o micro micro.cu && ./micro [launch|barrier|exchange|peak|lstm]...

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

// A line of its own for what does not work, after which the others still run.
bool worked(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return true;
    std::printf("FAILED %s: %s\n", what, cudaGetErrorString(error));
    std::fflush(stdout);
    cudaGetLastError();
    // Nothing runs any more in a process whose kernel trapped.
    if (cudaDeviceSynchronize() != cudaSuccess) std::exit(1);
    return false;
}

#define REQUIRE(call)                               \
    do {                                            \
        if (!worked((call), #call)) std::exit(1);   \
    } while (0)

template <typename T>
T* allocate(size_t count) {
    T* memory = nullptr;
    REQUIRE(cudaMalloc(&memory, count * sizeof(T)));
    REQUIRE(cudaMemset(memory, 0, count * sizeof(T)));
    return memory;
}

// The median time of what `launch` puts into the default stream, in microseconds; negative if it fails.
template <typename Launch>
double microseconds(const char* what, Launch launch, int repetitions = 9) {
    if (!worked(launch(), what) || !worked(cudaDeviceSynchronize(), what)) return -1;
    cudaEvent_t begin, end;
    REQUIRE(cudaEventCreate(&begin));
    REQUIRE(cudaEventCreate(&end));
    std::vector<float> times;
    for (int i = 0; i < repetitions; ++i) {
        REQUIRE(cudaEventRecord(begin));
        if (!worked(launch(), what)) return -1;
        REQUIRE(cudaEventRecord(end));
        if (!worked(cudaEventSynchronize(end), what)) return -1;
        float ms = 0;
        REQUIRE(cudaEventElapsedTime(&ms, begin, end));
        times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return 1e3 * times[times.size() / 2];
}

template <typename... Arguments>
cudaError_t launch_at_once(void (*kernel)(Arguments...), int blocks, int threads, int cluster, int shared,
                           Arguments... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeCooperative;
    attributes[0].val.cooperative = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = cluster;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    config.attrs = attributes;
    config.numAttrs = cluster > 1 ? 2 : 1;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// ---- memory operations that order others ----------------------------------------------------------------------------

__device__ void add_release(uint32_t* address) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(address) : "memory");
}
__device__ void store_release(uint32_t* address, uint32_t value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ uint32_t load_acquire(const uint32_t* address) {
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}
__device__ uint32_t load_relaxed(const uint32_t* address) {
    uint32_t value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}
__device__ void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// Spins until `ready`; a lost signal becomes an error after about a second.
template <typename Ready>
__device__ void spin(Ready ready) {
    for (uint32_t tries = 0; !ready();) {
        if (++tries == 1u << 22) __trap();
    }
}

// ---- barriers -------------------------------------------------------------------------------------------------------

enum class Barrier { Counter, Flags, SpreadFlags, RelaxedFlags, GridSync, Cluster, Hierarchy };

const char* name(Barrier kind) {
    switch (kind) {
    case Barrier::Counter: return "one counter, thread 0 spins with ld.acquire";
    case Barrier::Flags: return "a flag a block, thread i polls flag i with ld.acquire";
    case Barrier::SpreadFlags: return "the same, a flag every 32 bytes";
    case Barrier::RelaxedFlags: return "a flag a block, polled with ld.relaxed, then fence.acq_rel";
    case Barrier::GridSync: return "cooperative_groups grid.sync()";
    case Barrier::Cluster: return "cluster barrier alone";
    case Barrier::Hierarchy: return "cluster barrier, flags of the first blocks, cluster barrier";
    }
    return "";
}

// Where the blocks of a grid meet; `flags` has 8 words a block, all 0 before the launch.
template <Barrier kind>
__device__ void meet(uint32_t* flags, uint32_t step) {
    const uint32_t blocks = gridDim.x, block = blockIdx.x, thread = threadIdx.x;
    namespace cg = cooperative_groups;
    if constexpr (kind == Barrier::GridSync) {
        cg::this_grid().sync();
    } else if constexpr (kind == Barrier::Cluster) {
        cg::this_cluster().sync();
    } else if constexpr (kind == Barrier::Counter) {
        __syncthreads();
        if (thread == 0) {
            add_release(flags);
            spin([&] { return load_acquire(flags) >= blocks * step; });
        }
        __syncthreads();
    } else if constexpr (kind == Barrier::Hierarchy) {
        auto cluster = cg::this_cluster();
        cluster.sync();
        if (cluster.block_rank() == 0) {
            const uint32_t clusters = blocks / cluster.num_blocks(), own = block / cluster.num_blocks();
            if (thread == 0) store_release(flags + own, step);
            if (thread < clusters) spin([&] { return load_acquire(flags + thread) >= step; });
        }
        cluster.sync();
    } else {
        constexpr uint32_t stride = kind == Barrier::SpreadFlags ? 8 : 1;
        __syncthreads();
        if (thread == 0) store_release(flags + block * stride, step);
        if (thread < blocks) {
            const uint32_t* flag = flags + thread * stride;
            if constexpr (kind == Barrier::RelaxedFlags) {
                spin([&] { return load_relaxed(flag) >= step; });
                fence();
            } else {
                spin([&] { return load_acquire(flag) >= step; });
            }
        }
        __syncthreads();
    }
}

template <Barrier kind>
__global__ void barriers(uint32_t* flags, uint32_t steps) {
    for (uint32_t step = 1; step <= steps; ++step) meet<kind>(flags, step);
}

template <Barrier kind>
void time_barrier(int blocks, int threads, int cluster = 1) {
    static uint32_t* flags = allocate<uint32_t>(8 * 1024);
    if (cluster > 8) {
        const auto attribute = cudaFuncAttributeNonPortableClusterSizeAllowed;
        if (!worked(cudaFuncSetAttribute(barriers<kind>, attribute, 1), "allow clusters of 16")) return;
    }
    double times[2];
    const uint32_t steps[2] = {100, 1100};
    for (int i = 0; i < 2; ++i) {
        times[i] = microseconds(name(kind), [&] {
            cudaMemsetAsync(flags, 0, 8 * 1024 * sizeof(uint32_t));
            return launch_at_once(barriers<kind>, blocks, threads, cluster, 0, flags, steps[i]);
        });
        if (times[i] < 0) return;
    }
    std::printf("barrier  %3d blocks of %3d, clusters of %2d: %7.3f us  %s\n", blocks, threads, cluster,
                (times[1] - times[0]) / (steps[1] - steps[0]), name(kind));
    std::fflush(stdout);
}

void barrier_section() {
    for (int blocks : {64, 128, 132}) {
        for (int threads : {256, 512}) {
            time_barrier<Barrier::Counter>(blocks, threads);
            time_barrier<Barrier::Flags>(blocks, threads);
            time_barrier<Barrier::SpreadFlags>(blocks, threads);
            time_barrier<Barrier::RelaxedFlags>(blocks, threads);
            time_barrier<Barrier::GridSync>(blocks, threads);
        }
    }
    for (int cluster : {8, 16}) {
        time_barrier<Barrier::Cluster>(64, 512, cluster);
        time_barrier<Barrier::Hierarchy>(64, 512, cluster);
    }
    time_barrier<Barrier::Hierarchy>(128, 512, 2);
    time_barrier<Barrier::Hierarchy>(128, 512, 4);
    time_barrier<Barrier::Hierarchy>(128, 512, 8);
}

// ---- exchanges ------------------------------------------------------------------------------------------------------

enum class Load { Cg, Weak, CgToShared, AsyncToShared, BulkToShared };

const char* name(Load kind) {
    switch (kind) {
    case Load::Cg: return "ld.global.cg 16 bytes";
    case Load::Weak: return "weak ld.global 16 bytes";
    case Load::CgToShared: return "ld.global.cg 16 bytes, to shared memory";
    case Load::AsyncToShared: return "cp.async.cg 16 bytes, to shared memory";
    case Load::BulkToShared: return "cp.async.bulk of it all, to shared memory";
    }
    return "";
}

__host__ __device__ uint32_t word_at(uint32_t step, uint32_t index) { return (step * 2654435761u) ^ (index * 40503u); }

__device__ uint32_t shared_address(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }

__device__ uint32_t sum_of(uint4 v) { return v.x + v.y + v.z + v.w; }

// In every step each block writes its part of a buffer of `words` words, all meet, and each block reads all of it.
template <Load kind>
__global__ void __launch_bounds__(512) exchanges(uint32_t* flags, uint32_t* buffers, uint32_t words, uint32_t steps,
                                                 uint32_t* total) {
    extern __shared__ __align__(128) uint4 staged[];
    __shared__ __align__(8) uint64_t arrived;
    const uint32_t part = words / gridDim.x, quads = words / 4;
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(&arrived)) : "memory");
        asm volatile("fence.proxy.async;" ::: "memory");
    }
    __syncthreads();
    uint32_t sum = 0;
    for (uint32_t step = 1; step <= steps; ++step) {
        uint32_t* buffer = buffers + (step & 1) * words;
        for (uint32_t i = threadIdx.x; i < part; i += blockDim.x) {
            const uint32_t index = blockIdx.x * part + i;
            buffer[index] = word_at(step, index);
        }
        meet<Barrier::Flags>(flags, step);
        const uint4* source = reinterpret_cast<const uint4*>(buffer);
        if constexpr (kind == Load::Cg || kind == Load::Weak) {
#pragma unroll 8
            for (uint32_t i = threadIdx.x; i < quads; i += 512) {
                sum += sum_of(kind == Load::Cg ? __ldcg(source + i) : source[i]);
            }
        } else {
            if constexpr (kind == Load::CgToShared) {
#pragma unroll 8
                for (uint32_t i = threadIdx.x; i < quads; i += 512) staged[i] = __ldcg(source + i);
                __syncthreads();
            } else if constexpr (kind == Load::AsyncToShared) {
#pragma unroll 8
                for (uint32_t i = threadIdx.x; i < quads; i += 512) {
                    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(staged + i)),
                                 "l"(source + i)
                                 : "memory");
                }
                asm volatile("cp.async.wait_all;" ::: "memory");
                __syncthreads();
            } else {
                const uint32_t barrier = shared_address(&arrived);
                if (threadIdx.x == 0) {
                    asm volatile("fence.proxy.async;" ::: "memory");
                    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(4 * words)
                                 : "memory");
                    asm volatile(
                        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                            shared_address(staged)),
                        "l"(source), "r"(4 * words), "r"(barrier)
                        : "memory");
                }
                spin([&] {
                    uint32_t done;
                    asm volatile(
                        "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                        : "=r"(done)
                        : "r"(barrier), "r"((step - 1) & 1)
                        : "memory");
                    return done != 0;
                });
            }
            // A warp reads its part of what was staged, as a product split over warps does.
            for (uint32_t i = threadIdx.x; i < quads; i += 512) sum += sum_of(staged[i]);
            __syncthreads();
        }
    }
    atomicAdd(total, sum);
}

template <Load kind>
void time_exchange(int blocks, uint32_t words) {
    static uint32_t* flags = allocate<uint32_t>(1024);
    static uint32_t* buffers = allocate<uint32_t>(2 * 16384);
    static uint32_t* total = allocate<uint32_t>(1);
    const int shared = kind == Load::Cg || kind == Load::Weak ? 0 : int(4 * words);
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    if (!worked(cudaFuncSetAttribute(exchanges<kind>, attribute, shared), "shared memory")) return;
    double times[2];
    const uint32_t steps[2] = {100, 1100};
    for (int i = 0; i < 2; ++i) {
        times[i] = microseconds(name(kind), [&] {
            cudaMemsetAsync(flags, 0, 1024 * sizeof(uint32_t));
            cudaMemsetAsync(total, 0, sizeof(uint32_t));
            return launch_at_once(exchanges<kind>, blocks, 512, 1, shared, flags, buffers, words, steps[i], total);
        });
        if (times[i] < 0) return;
    }
    uint32_t got = 0, expected = 0;
    REQUIRE(cudaMemcpy(&got, total, sizeof got, cudaMemcpyDeviceToHost));
    for (uint32_t step = 1; step <= steps[1]; ++step) {
        for (uint32_t i = 0; i < words; ++i) expected += word_at(step, i);
    }
    std::printf("exchange %3d blocks of 512, %2u KiB: %7.3f us with barrier  %s%s\n", blocks, words / 256,
                (times[1] - times[0]) / (steps[1] - steps[0]), name(kind),
                got == expected * uint32_t(blocks) ? "" : "  WRONG SUM");
    std::fflush(stdout);
}

void exchange_section() {
    for (uint32_t kib : {32u, 64u}) {
        time_exchange<Load::Cg>(128, kib * 256);
        time_exchange<Load::Weak>(128, kib * 256);
        time_exchange<Load::CgToShared>(128, kib * 256);
        time_exchange<Load::AsyncToShared>(128, kib * 256);
        time_exchange<Load::BulkToShared>(128, kib * 256);
    }
}

// ---- launches -------------------------------------------------------------------------------------------------------

__global__ void nothing() {}

double wall_microseconds(int times, const char* what, cudaError_t (*launch)()) {
    for (int i = 0; i < 100; ++i) {
        if (!worked(launch(), what)) return -1;
    }
    REQUIRE(cudaDeviceSynchronize());
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) launch();
    REQUIRE(cudaDeviceSynchronize());
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / times;
}

void launch_section() {
    std::printf("launch   %7.3f us each, back to back\n", wall_microseconds(5000, "launch", [] {
                    nothing<<<128, 256>>>();
                    return cudaGetLastError();
                }));
    std::printf("launch   %7.3f us each, cooperative\n", wall_microseconds(5000, "cooperative launch", [] {
                    return launch_at_once(nothing, 128, 256, 1, 0);
                }));
    std::printf("launch   %7.3f us each, cooperative after a memset of 4 bytes\n",
                wall_microseconds(2000, "memset and launch", [] {
                    static uint32_t* word = allocate<uint32_t>(1);
                    cudaMemsetAsync(word, 0, 4);
                    return launch_at_once(nothing, 128, 256, 1, 0);
                }));
    std::printf("launch   %7.3f us each, waiting for every one\n", wall_microseconds(1000, "launch and wait", [] {
                    nothing<<<128, 256>>>();
                    return cudaDeviceSynchronize();
                }));
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    REQUIRE(cudaStreamCreate(&stream));
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < 1000; ++i) nothing<<<128, 256, 0, stream>>>();
    REQUIRE(cudaStreamEndCapture(stream, &graph));
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0));
    const double time = microseconds("graph", [&] { return cudaGraphLaunch(executable, 0); });
    std::printf("launch   %7.3f us each, of 1000 in a CUDA graph\n", time / 1000);
    std::fflush(stdout);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
}

// ---- peaks ----------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(256) multiply_adds(float* out, int rounds, float a, float b) {
    float v[16];
    for (int i = 0; i < 16; ++i) v[i] = float(threadIdx.x + i);
    for (int round = 0; round < rounds; ++round) {
#pragma unroll
        for (int i = 0; i < 16; ++i) v[i] = fmaf(v[i], a, b);
    }
    float sum = 0;
    for (int i = 0; i < 16; ++i) sum += v[i];
    if (sum == 12345.678f) out[threadIdx.x] = sum;
}

// Every block reads all of a buffer, each from another place.
__global__ void __launch_bounds__(512) read_all(const uint4* buffer, uint32_t quads, uint32_t* out) {
    uint32_t sum = 0;
    const uint32_t start = uint32_t(uint64_t(quads) * blockIdx.x / gridDim.x);
#pragma unroll 8
    for (uint32_t i = threadIdx.x; i < quads; i += 512) {
        uint32_t at = start + i;
        at = at < quads ? at : at - quads;
        sum += sum_of(__ldcg(buffer + at));
    }
    if (sum == 12345u) *out = sum;
}

void peak_section() {
    float* out = allocate<float>(512);
    const int rounds = 20000, blocks = 132 * 8;
    const double fma = microseconds("FMA", [&] {
        multiply_adds<<<blocks, 256>>>(out, rounds, 0.999f, 0.001f);
        return cudaGetLastError();
    });
    std::printf("peak     %7.2f TFLOP/s of f32 multiply-adds\n", 2.0 * 16 * rounds * blocks * 256 / fma * 1e-6);
    const size_t bytes = size_t(1) << 30;
    char *from = allocate<char>(bytes), *to = allocate<char>(bytes);
    const double copy =
        microseconds("copy", [&] { return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice); });
    std::printf("peak     %7.2f GB/s read and written by a copy of 1 GiB\n", 2e-3 * bytes / copy);
    const double fill = microseconds("fill", [&] { return cudaMemsetAsync(to, 1, bytes); });
    std::printf("peak     %7.2f GB/s written by a fill of 1 GiB\n", 1e-3 * bytes / fill);
    for (uint32_t mib : {1u, 8u, 24u}) {
        const uint32_t quads = mib << 16;
        const double read = microseconds("L2", [&] {
            read_all<<<264, 512>>>(reinterpret_cast<uint4*>(from), quads, reinterpret_cast<uint32_t*>(out));
            return cudaGetLastError();
        });
        std::printf("peak     %7.2f GB/s read from L2, %u MiB by all blocks\n", 264e-3 * 16 * quads / read, mib);
    }
    std::vector<char> pageable(bytes / 16);
    void* pinned = nullptr;
    REQUIRE(cudaMallocHost(&pinned, bytes / 16));
    const double slow = microseconds(
        "copy", [&] { return cudaMemcpyAsync(to, pageable.data(), bytes / 16, cudaMemcpyHostToDevice); });
    const double fast =
        microseconds("copy", [&] { return cudaMemcpyAsync(to, pinned, bytes / 16, cudaMemcpyHostToDevice); });
    std::printf("peak     %7.2f GB/s from pageable, %.2f GB/s from pinned host memory\n", 1e-3 * bytes / 16 / slow,
                1e-3 * bytes / 16 / fast);
    std::fflush(stdout);
    cudaFreeHost(pinned);
    cudaFree(from);
    cudaFree(to);
    cudaFree(out);
}

// ---- one LSTM layer, all steps in one launch ------------------------------------------------------------------------
//
// 16 rows, 512 units, 128 blocks of 512 threads. A block owns 4 units, so 16 columns of the product, and keeps their
// weights; its 16 warps split the sum over the state, 32 terms each.

constexpr int ROWS = 16, UNITS = 512, BLOCKS = 128, OWN = UNITS / BLOCKS, COLUMNS = 4 * OWN, WARPS = 16;
constexpr int TERMS = UNITS / WARPS, STAGED = TERMS + 4;

enum class Product { SharedWeights, RegisterWeights, Tf32Thrice, Bf16Thrice, Bf16 };
enum class Exchange { Counter, Flags, WarpFlags, Tagged };

const char* name(Product kind) {
    switch (kind) {
    case Product::SharedWeights: return "FFMA, weights in shared memory";
    case Product::RegisterWeights: return "FFMA, weights in registers";
    case Product::Tf32Thrice: return "mma tf32 x3";
    case Product::Bf16Thrice: return "mma bf16 x3";
    case Product::Bf16: return "mma bf16";
    }
    return "";
}

const char* name(Exchange kind) {
    switch (kind) {
    case Exchange::Counter: return "barrier of one counter";
    case Exchange::Flags: return "barrier of flags";
    case Exchange::WarpFlags: return "each warp waits for the 8 blocks it reads";
    case Exchange::Tagged: return "each value comes with its step, 8 bytes";
    }
    return "";
}

struct Layer {
    const float* weights;     // [512][4][512]: term, gate, unit
    const float* projected;   // [steps][16][4][512]
    float* state;             // [2][16][512]
    uint64_t* tagged;         // [2][16][512]: the value and, above it, the step
    uint32_t* flags;
    float* out;               // [steps][16][512]
    uint32_t steps, distinct; // steps wrap around to the first after `distinct`
};

__device__ uint32_t tf32_of(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}
// The two parts of x that tf32 holds, of 11 bits each.
__device__ void split_tf32(float x, uint32_t& high, uint32_t& low) {
    high = tf32_of(x);
    low = tf32_of(x - __uint_as_float(high));
}
__device__ uint32_t pack_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}
__device__ float rest_of_bf16(float x) { return x - __bfloat162float(__float2bfloat16_rn(x)); }

__device__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ float tanh_of(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

// What a lane holds of the weights, and how it multiplies by them.
//
// In the products of tensor cores a lane's terms are 8t to 8t+7 with t = lane % 4: which term is which of the
// instruction's is free as long as both operands agree, and so a lane reads whole vectors of the state.
template <Product kind>
struct Weights;

template <>
struct Weights<Product::SharedWeights> {
    const float* slice;
    __device__ Weights(const Layer& layer, int block, int warp, int lane, float* memory) {
        slice = memory + warp * TERMS * COLUMNS;
        for (int i = lane; i < TERMS * COLUMNS; i += 32) {
            const int term = i / COLUMNS, column = i % COLUMNS;
            memory[warp * TERMS * COLUMNS + i] =
                layer.weights[((warp * TERMS + term) * 4 + column % 4) * UNITS + block * OWN + column / 4];
        }
        __syncwarp();
    }
    __device__ float2 at(int term, int lane) const {
        return *reinterpret_cast<const float2*>(slice + term * COLUMNS + 2 * (lane % 8));
    }
};

template <>
struct Weights<Product::RegisterWeights> {
    float2 own[TERMS];
    __device__ Weights(const Layer& layer, int block, int warp, int lane, float*) {
#pragma unroll
        for (int term = 0; term < TERMS; ++term) {
            const int column = 2 * (lane % 8);
            const float* row = layer.weights + (warp * TERMS + term) * 4 * UNITS + block * OWN + column / 4;
            own[term] = {row[column % 4 * UNITS], row[(column % 4 + 1) * UNITS]};
        }
    }
    __device__ float2 at(int term, int) const { return own[term]; }
};

// The weight of the lane's term and of the instruction's column in one of its two halves of the block's columns.
__device__ float fragment_weight(const Layer& layer, int block, int warp, int lane, int half, int term) {
    const int column = 8 * half + lane / 4;
    const int k = warp * TERMS + 8 * (lane % 4) + term;
    return layer.weights[(k * 4 + column % 4) * UNITS + block * OWN + column / 4];
}

template <>
struct Weights<Product::Tf32Thrice> {
    uint32_t high[2][4][2], low[2][4][2];
    __device__ Weights(const Layer& layer, int block, int warp, int lane, float*) {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int half = i / 8, part = i / 2 % 4, which = i % 2;
            const float w = fragment_weight(layer, block, warp, lane, half, 2 * part + which);
            split_tf32(w, high[half][part][which], low[half][part][which]);
        }
    }
    __device__ void multiply(float (&sums)[2][4], const float (&upper)[8], const float (&lower)[8]) const {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            uint32_t a[4], rest[4];
            split_tf32(upper[2 * part], a[0], rest[0]);
            split_tf32(lower[2 * part], a[1], rest[1]);
            split_tf32(upper[2 * part + 1], a[2], rest[2]);
            split_tf32(lower[2 * part + 1], a[3], rest[3]);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                mma_tf32(sums[half], rest, high[half][part]);
                mma_tf32(sums[half], a, low[half][part]);
                mma_tf32(sums[half], a, high[half][part]);
            }
        }
    }
};

template <bool THRICE>
struct Bf16Weights {
    uint32_t high[2][2][2], low[2][2][2];
    __device__ Bf16Weights(const Layer& layer, int block, int warp, int lane, float*) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int half = i / 4, part = i / 2 % 2, pair = i % 2;
            const float w0 = fragment_weight(layer, block, warp, lane, half, 4 * part + 2 * pair);
            const float w1 = fragment_weight(layer, block, warp, lane, half, 4 * part + 2 * pair + 1);
            high[half][part][pair] = pack_bf16(w0, w1);
            low[half][part][pair] = pack_bf16(rest_of_bf16(w0), rest_of_bf16(w1));
        }
    }
    __device__ void multiply(float (&sums)[2][4], const float (&upper)[8], const float (&lower)[8]) const {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const float *u = upper + 4 * part, *l = lower + 4 * part;
            const uint32_t a[4] = {pack_bf16(u[0], u[1]), pack_bf16(l[0], l[1]), pack_bf16(u[2], u[3]),
                                   pack_bf16(l[2], l[3])};
            if constexpr (THRICE) {
                const uint32_t rest[4] = {pack_bf16(rest_of_bf16(u[0]), rest_of_bf16(u[1])),
                                          pack_bf16(rest_of_bf16(l[0]), rest_of_bf16(l[1])),
                                          pack_bf16(rest_of_bf16(u[2]), rest_of_bf16(u[3])),
                                          pack_bf16(rest_of_bf16(l[2]), rest_of_bf16(l[3]))};
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    mma_bf16(sums[half], rest, high[half][part]);
                    mma_bf16(sums[half], a, low[half][part]);
                }
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) mma_bf16(sums[half], a, high[half][part]);
        }
    }
};

template <>
struct Weights<Product::Bf16Thrice> : Bf16Weights<true> {
    using Bf16Weights<true>::Bf16Weights;
};
template <>
struct Weights<Product::Bf16> : Bf16Weights<false> {
    using Bf16Weights<false>::Bf16Weights;
};

// Waits for the state that step `step` (1 for the first) starts from, which another step of the blocks left.
template <Exchange kind>
__device__ void wait_for(const Layer& layer, uint32_t step, int warp, int lane) {
    if (step == 1) return;
    if constexpr (kind == Exchange::Counter) {
        if (threadIdx.x == 0) spin([&] { return load_acquire(layer.flags) >= BLOCKS * (step - 1); });
        __syncthreads();
    } else if constexpr (kind == Exchange::Flags) {
        if (threadIdx.x < BLOCKS) spin([&] { return load_acquire(layer.flags + threadIdx.x) >= step - 1; });
        __syncthreads();
    } else if constexpr (kind == Exchange::WarpFlags) {
        constexpr int sources = TERMS / OWN;
        if (lane < sources) spin([&] { return load_acquire(layer.flags + warp * sources + lane) >= step - 1; });
        __syncwarp();
    }
}

// Four vectors of four states each, at offsets into [16][512].
template <Exchange kind>
__device__ void load_state(const Layer& layer, uint32_t step, const int (&offsets)[4], float4 (&values)[4]) {
    const int start = ((step - 1) & 1) * ROWS * UNITS;
    if constexpr (kind == Exchange::Tagged) {
        uint64_t words[16];
        spin([&] {
            bool ready = true;
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                             : "=l"(words[2 * i]), "=l"(words[2 * i + 1])
                             : "l"(layer.tagged + start + offsets[i / 2] + 2 * (i % 2))
                             : "memory");
            }
#pragma unroll
            for (int i = 0; i < 16; ++i) ready &= uint32_t(words[i] >> 32) == step - 1;
            return ready;
        });
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[i] = {__uint_as_float(uint32_t(words[4 * i])), __uint_as_float(uint32_t(words[4 * i + 1])),
                         __uint_as_float(uint32_t(words[4 * i + 2])), __uint_as_float(uint32_t(words[4 * i + 3]))};
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[i] = __ldcg(reinterpret_cast<const float4*>(layer.state + start + offsets[i]));
        }
    }
}

constexpr int PARTIAL_FLOATS = 2 * WARPS * ROWS * COLUMNS;
constexpr int LAYER_SHARED = 4 * (PARTIAL_FLOATS + WARPS * TERMS * COLUMNS + WARPS * ROWS * STAGED);

template <Product product, Exchange exchange>
__global__ void __launch_bounds__(512, 1) lstm(Layer layer) {
    extern __shared__ __align__(128) float memory[];
    float* partial_sums = memory;
    float* weight_memory = partial_sums + PARTIAL_FLOATS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, block = blockIdx.x;
    float* staged = weight_memory + WARPS * TERMS * COLUMNS + warp * ROWS * STAGED;
    constexpr bool scalar = product == Product::SharedWeights || product == Product::RegisterWeights;
    const Weights<product> weights(layer, block, warp, lane, weight_memory);

    int offsets[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = scalar ? lane / 8 + 4 * i : lane / 4 + 8 * (i / 2);
        const int term = scalar ? 4 * (lane % 8) : 8 * (lane % 4) + 4 * (i % 2);
        offsets[i] = row * UNITS + warp * TERMS + term;
    }
    // The first half of the threads: one gate of one unit of one row each.
    const bool reduces = threadIdx.x < ROWS * COLUMNS;
    const int row = threadIdx.x / COLUMNS % ROWS, gate = threadIdx.x % 4, unit = block * OWN + threadIdx.x % COLUMNS / 4;
    float cell = 0;
    for (uint32_t step = 1; step <= layer.steps; ++step) {
        float* partial = partial_sums + (step & 1) * WARPS * ROWS * COLUMNS;
        const uint32_t source = (step - 1) % layer.distinct;
        float sum = 0;
        if (reduces) sum = __ldcg(layer.projected + ((source * ROWS + row) * 4 + gate) * UNITS + unit);

        wait_for<exchange>(layer, step, warp, lane);
        float4 state[4];
        load_state<exchange>(layer, step, offsets, state);
        if constexpr (scalar) {
            __syncwarp();
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                *reinterpret_cast<float4*>(staged + (lane / 8 + 4 * i) * STAGED + 4 * (lane % 8)) = state[i];
            }
            __syncwarp();
            float2 sums[4] = {};
#pragma unroll
            for (int term = 0; term < TERMS; term += 4) {
                float4 h[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    h[i] = *reinterpret_cast<const float4*>(staged + (lane / 8 + 4 * i) * STAGED + term);
                }
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const float2 w = weights.at(term + k, lane);
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const float value = k == 0 ? h[i].x : k == 1 ? h[i].y : k == 2 ? h[i].z : h[i].w;
                        sums[i].x = fmaf(value, w.x, sums[i].x);
                        sums[i].y = fmaf(value, w.y, sums[i].y);
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                *reinterpret_cast<float2*>(partial + (warp * ROWS + lane / 8 + 4 * i) * COLUMNS + 2 * (lane % 8)) = sums[i];
            }
        } else {
            const float upper[8] = {state[0].x, state[0].y, state[0].z, state[0].w,
                                    state[1].x, state[1].y, state[1].z, state[1].w};
            const float lower[8] = {state[2].x, state[2].y, state[2].z, state[2].w,
                                    state[3].x, state[3].y, state[3].z, state[3].w};
            float sums[2][4] = {};
            weights.multiply(sums, upper, lower);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float* at = partial + (warp * ROWS + lane / 4) * COLUMNS + 8 * half + 2 * (lane % 4);
                *reinterpret_cast<float2*>(at) = {sums[half][0], sums[half][1]};
                *reinterpret_cast<float2*>(at + 8 * COLUMNS) = {sums[half][2], sums[half][3]};
            }
        }
        // The other half of the partial sums is in use until every warp has come here again.
        __syncthreads();
        if (!reduces) continue;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += partial[w * ROWS * COLUMNS + threadIdx.x];
        const float scaled = gate == 2 ? 2 * sum : sum;
        const float squashed = sigmoid(scaled);
        const float activation = gate == 2 ? 2 * squashed - 1 : squashed;
        const float in = __shfl_sync(~0u, activation, lane & ~3), forget = __shfl_sync(~0u, activation, (lane & ~3) + 1);
        const float candidate = __shfl_sync(~0u, activation, (lane & ~3) + 2);
        const float open = __shfl_sync(~0u, activation, (lane & ~3) + 3);
        cell = forget * cell + in * candidate;
        const float h = open * tanh_of(cell);
        const int next = (step & 1) * ROWS * UNITS + row * UNITS + unit;
        if (gate == 0) {
            if constexpr (exchange == Exchange::Tagged) {
                const uint64_t word = uint64_t(step) << 32 | __float_as_uint(h);
                asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(layer.tagged + next), "l"(word) : "memory");
            } else {
                layer.state[next] = h;
            }
        }
        if constexpr (exchange != Exchange::Tagged) {
            asm volatile("bar.sync 1, %0;" ::"n"(ROWS * COLUMNS) : "memory");
            if (threadIdx.x == 0) {
                if constexpr (exchange == Exchange::Counter) {
                    add_release(layer.flags);
                } else {
                    store_release(layer.flags + block, step);
                }
            }
        }
        if (gate == 0) layer.out[(source * ROWS + row) * UNITS + unit] = h;
    }
}

// The same in double precision.
std::vector<double> lstm_on_cpu(const std::vector<float>& weights, const std::vector<float>& projected, int steps) {
    std::vector<double> h(ROWS * UNITS, 0.0), cell(ROWS * UNITS, 0.0), gates(4 * UNITS);
    for (int step = 0; step < steps; ++step) {
        for (int row = 0; row < ROWS; ++row) {
            double* own = h.data() + row * UNITS;
            for (int j = 0; j < 4 * UNITS; ++j) gates[j] = projected[(size_t(step) * ROWS + row) * 4 * UNITS + j];
            for (int k = 0; k < UNITS; ++k) {
                const float* w = weights.data() + size_t(k) * 4 * UNITS;
                for (int j = 0; j < 4 * UNITS; ++j) gates[j] += own[k] * w[j];
            }
            for (int u = 0; u < UNITS; ++u) {
                const auto squash = [](double x) { return 1 / (1 + std::exp(-x)); };
                double& c = cell[row * UNITS + u];
                c = squash(gates[UNITS + u]) * c + squash(gates[u]) * std::tanh(gates[2 * UNITS + u]);
                own[u] = squash(gates[3 * UNITS + u]) * std::tanh(c);
            }
        }
    }
    return h;
}

constexpr int CHECKED_STEPS = 20, DISTINCT_STEPS = 100;

struct LstmData {
    std::vector<float> weights, projected;
    std::vector<double> expected;
    Layer layer = {};

    LstmData() : weights(size_t(UNITS) * 4 * UNITS), projected(size_t(DISTINCT_STEPS) * ROWS * 4 * UNITS) {
        uint32_t seed = 1;
        const auto draw = [&](float scale) {
            seed = seed * 1664525u + 1013904223u;
            return scale * (float(seed >> 8) / float(1 << 23) - 1.0f);
        };
        for (float& w : weights) w = draw(0.08f);
        for (float& x : projected) x = draw(1.0f);
        expected = lstm_on_cpu(weights, projected, CHECKED_STEPS);
        float *w = allocate<float>(weights.size()), *x = allocate<float>(projected.size());
        REQUIRE(cudaMemcpy(w, weights.data(), 4 * weights.size(), cudaMemcpyHostToDevice));
        REQUIRE(cudaMemcpy(x, projected.data(), 4 * projected.size(), cudaMemcpyHostToDevice));
        layer.weights = w;
        layer.projected = x;
        layer.state = allocate<float>(2 * ROWS * UNITS);
        layer.tagged = allocate<uint64_t>(2 * ROWS * UNITS);
        layer.flags = allocate<uint32_t>(BLOCKS);
        layer.out = allocate<float>(size_t(DISTINCT_STEPS) * ROWS * UNITS);
        layer.distinct = DISTINCT_STEPS;
    }
};

template <Product product, Exchange exchange>
void time_lstm(const LstmData& data) {
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    if (!worked(cudaFuncSetAttribute(lstm<product, exchange>, attribute, LAYER_SHARED), "shared memory")) return;
    const auto run = [&](uint32_t steps) {
        Layer layer = data.layer;
        layer.steps = steps;
        cudaMemsetAsync(layer.flags, 0, BLOCKS * sizeof(uint32_t));
        cudaMemsetAsync(layer.state, 0, 2 * ROWS * UNITS * sizeof(float));
        cudaMemsetAsync(layer.tagged, 0, 2 * ROWS * UNITS * sizeof(uint64_t));
        return launch_at_once(lstm<product, exchange>, BLOCKS, 512, 1, LAYER_SHARED, layer);
    };
    if (!worked(run(CHECKED_STEPS), name(product)) || !worked(cudaDeviceSynchronize(), name(product))) return;
    std::vector<float> got(ROWS * UNITS);
    const float* last = data.layer.out + size_t(CHECKED_STEPS - 1) * ROWS * UNITS;
    REQUIRE(cudaMemcpy(got.data(), last, 4 * got.size(), cudaMemcpyDeviceToHost));
    double error = 0;
    for (size_t i = 0; i < got.size(); ++i) error = std::max(error, std::fabs(got[i] - data.expected[i]));
    const double hundred = microseconds(name(product), [&] { return run(100); });
    const double thousand = microseconds(name(product), [&] { return run(1100); });
    if (hundred < 0 || thousand < 0) return;
    std::printf("lstm     %7.3f us a step, %8.3f us for 100 steps, error %.1e  %s; %s\n", (thousand - hundred) / 1000,
                hundred, error, name(product), name(exchange));
    std::fflush(stdout);
}

template <Product product>
void time_exchanges_of(const LstmData& data) {
    time_lstm<product, Exchange::Counter>(data);
    time_lstm<product, Exchange::Flags>(data);
    time_lstm<product, Exchange::WarpFlags>(data);
    time_lstm<product, Exchange::Tagged>(data);
}

void lstm_section() {
    const LstmData data;
    time_exchanges_of<Product::SharedWeights>(data);
    time_exchanges_of<Product::RegisterWeights>(data);
    time_exchanges_of<Product::Tf32Thrice>(data);
    time_exchanges_of<Product::Bf16Thrice>(data);
    time_exchanges_of<Product::Bf16>(data);
}

}  // namespace

int main(int count, char** arguments) {
    struct Section {
        const char* name;
        void (*run)();
    };
    const Section sections[] = {{"launch", launch_section},
                                {"barrier", barrier_section},
                                {"exchange", exchange_section},
                                {"peak", peak_section},
                                {"lstm", lstm_section}};
    cudaDeviceProp properties;
    REQUIRE(cudaGetDeviceProperties(&properties, 0));
    std::printf("device   %s, %d multiprocessors, %.0f MiB of L2\n", properties.name, properties.multiProcessorCount,
                properties.l2CacheSize / 1048576.0);
    for (const Section& section : sections) {
        bool wanted = count < 2;
        for (int i = 1; i < count; ++i) wanted |= std::strcmp(arguments[i], section.name) == 0;
        if (wanted) section.run();
    }
    return 0;
}
