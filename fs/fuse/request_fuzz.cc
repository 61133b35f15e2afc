// Fuzzes everything between a request of the kernel's and the volume: what receives it, what decodes it (the library's
// part and ours), the handlers, and the replies. The volume is a real one, on an engine in memory.
//
// An input is a row of requests. Each has an opcode, a node, and bytes that its structure and its names are made of;
// they make sense or do not. Whatever they are, each request is answered once, with a reply that is as long as it says.

#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_log.h>
#include <linux/fuse.h>

#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/bytes.h"
#include "fs/fuse/mount.h"
#include "fs/fuse/request_check.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "sal/check.h"
#include "sal/simulated_environment.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/require.h"

namespace stagefs::fuse {
namespace {

using volume::testing::MemoryEngine;

constexpr int kMostRequests = 40;
constexpr size_t kMostPayloadBytes = (1 << 20) + 4096;  // more than fits
constexpr size_t kHeaderBytes = sizeof(fuse_in_header);
constexpr size_t kWritePrefixBytes = kHeaderBytes + sizeof(fuse_write_in);

MemoryEngine::Options EngineOptions() {
  MemoryEngine::Options options;
  options.capacity_blocks = 4096;
  return options;
}

MemoryEngine::State FormattedState() {
  sal::SimulatedEnvironment environment(1);
  MemoryEngine engine(environment, EngineOptions());
  fuzz::RequireOk(volume::Volume::Format(engine, {}), "making a volume");
  return engine.Snapshot();
}

// Judges replies.
class FuzzPort final : public RequestPort {
 public:
  explicit FuzzPort(absl::Span<std::byte> memory) : memory_(memory) {}

  void Expect(uint64_t unique) {
    unique_ = unique;
    replies_ = 0;
  }
  int replies() const { return replies_; }

  void Send(absl::Span<const iovec> message) override {
    STAGEFS_CHECK(!message.empty() && message[0].iov_len == sizeof(fuse_out_header));
    fuse_out_header header;
    std::memcpy(&header, message[0].iov_base, sizeof(header));
    size_t bytes = 0;
    for (const iovec& piece : message) {
      bytes += piece.iov_len;
      bytes_.assign(static_cast<const char*>(piece.iov_base), piece.iov_len);  // the sanitizer sees each byte
    }
    STAGEFS_CHECK(header.len == bytes && header.unique == unique_);
    STAGEFS_CHECK(header.error <= 0 && header.error > -4096 && (header.error == 0 || bytes == sizeof(header)));
    ++replies_;
  }
  absl::Span<std::byte> memory() override { return memory_; }

 private:
  const absl::Span<std::byte> memory_;
  std::string bytes_;
  uint64_t unique_ = 0;
  int replies_ = 0;
};

// A volume that is served, but for the kernel.
class Server {
 public:
  explicit Server(const MountOptions& options)
      : options_(options), engine_(environment_, EngineOptions(), Formatted()) {
    auto volume = volume::Volume::Open(engine_);
    fuzz::RequireOk(volume.status(), "opening the volume");
    volume_ = *std::move(volume);
    serving_.emplace(*volume_, options_);
    fuse_lowlevel_ops operations = {};
    AddNameHandlers(&operations);
    AddAttributeHandlers(&operations);
    AddContentHandlers(&operations);
    const int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    STAGEFS_CHECK(nowhere >= 0);
    transport_ = std::make_unique<Transport>(
        nowhere, operations, &*serving_,
        [this](const fuse_in_header& header, const void* argument, size_t size) {
          return HandleRaw(*transport_, *serving_, header, argument, size);
        },
        options_);
  }
  ~Server() {
    volume_->Close();
    environment_.RunUntilIdle();
  }

  // Receives `request` as a thread that reads /dev/fuse does, or, if `own_memory`, as a queue of io_uring does.
  void Receive(absl::Span<const std::byte> request, bool own_memory) {
    const auto header = core::Load<fuse_in_header>(request.data());
    CheckRequest(request);  // of exactly its size, so that the sanitizer sees what leaves it
    Buffer buffer = transport_->buffers().Take(BufferPool::kLargeBytes);
    std::byte* const start = buffer.data() - kWritePrefixBytes;
    std::memcpy(start, request.data(), request.size());
    FuzzPort port(own_memory ? absl::MakeSpan(buffer.data(), buffer.size_bytes()) : absl::Span<std::byte>());
    port.Expect(header.unique);
    transport_->Dispatch(port, own_memory ? nullptr : &buffer, absl::MakeSpan(start, request.size()));
    environment_.RunUntilIdle();
    const bool silent = header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET ||
                        header.opcode == FUSE_INTERRUPT;
    STAGEFS_CHECK(port.replies() == (silent ? 0 : 1));
    STAGEFS_CHECK(transport_->stats().in_flight == 0);
  }

 private:
  static const MemoryEngine::State& Formatted() {
    static const MemoryEngine::State state = FormattedState();
    return state;
  }

  const MountOptions options_;
  sal::SimulatedEnvironment environment_{1};
  MemoryEngine engine_;
  std::unique_ptr<volume::Volume> volume_;
  std::optional<Serving> serving_;
  std::unique_ptr<Transport> transport_;
};

std::string Request(uint32_t opcode, uint64_t node, absl::string_view argument) {
  fuse_in_header header = {};
  header.len = static_cast<uint32_t>(kHeaderBytes + argument.size());
  header.opcode = opcode;
  header.unique = 2;
  header.nodeid = node;
  std::string request(reinterpret_cast<const char*>(&header), sizeof(header));
  absl::StrAppend(&request, argument);
  return request;
}

std::string InitRequest() {
  fuse_init_in in = {};
  in.major = FUSE_KERNEL_VERSION;
  in.minor = FUSE_KERNEL_MINOR_VERSION;
  in.max_readahead = 1 << 20;
  in.flags = ~0u;
  in.flags2 = ~0u;
  return Request(FUSE_INIT, 0, {reinterpret_cast<const char*>(&in), sizeof(in)});
}

// What names are made of: few, so that requests meet.
std::string AnyName(fuzz::Input& input) {
  const uint8_t how = input.Byte();
  if (how < 200) return std::string(1, static_cast<char>('a' + how % 8));
  if (how < 220) return "security.capability";
  if (how < 230) return std::string(how % 2 == 0 ? 255 : 256, 'n');
  return std::string(input.Bytes(input.Byte() % 16));
}

std::string AnyArgument(fuzz::Input& input, uint32_t opcode) {
  std::string argument(input.Bytes(input.Byte() % 128));
  for (int names = input.Byte() % 3; names > 0; --names) absl::StrAppend(&argument, AnyName(input), std::string(1, '\0'));
  // A payload that is longer than an input, and said to be.
  if (const uint8_t how = input.Byte(); how >= 192 && argument.size() >= sizeof(fuse_write_in)) {
    const uint64_t bytes = input.Size() % kMostPayloadBytes;
    if (opcode == FUSE_WRITE) {
      argument.resize(sizeof(fuse_write_in));
      const auto size = static_cast<uint32_t>(bytes);
      std::memcpy(argument.data() + offsetof(fuse_write_in, size), &size, sizeof(size));
    }
    argument.append(bytes, static_cast<char>(how));
  }
  argument.resize(std::min<size_t>(argument.size(), sizeof(fuse_write_in) + BufferPool::kLargeBytes));
  return argument;
}

MountOptions AnyOptions(fuzz::Input& input) {
  MountOptions options;
  options.cache = static_cast<CacheMode>(input.Below(3));
  if (input.Bool()) options.statistics = [](const FuseStats& stats) { return FuseStatsJson(stats); };
  return options;
}

void Fuzz(fuzz::Input input) {
  static const bool quiet = [] {
    fuse_set_log_func([](fuse_log_level, const char*, va_list) {});
    return true;
  }();
  static_cast<void>(quiet);
  Server server(AnyOptions(input));
  const auto receive = [&](const std::string& request, bool own_memory) {
    server.Receive(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(request.data()), request.size()), own_memory);
  };
  if (input.Byte() < 250) receive(InitRequest(), false);
  for (int requests = 0; requests < kMostRequests && !input.empty(); ++requests) {
    const uint8_t how = input.Byte();
    const uint32_t opcode = how < 250 ? how % 56 : input.Number<uint32_t>();
    const uint8_t node = input.Byte();
    std::string request =
        Request(opcode, node < 250 ? node % 16 : input.Number<uint64_t>(), AnyArgument(input, opcode));
    if (input.Byte() >= 250) {
      fuzz::Patch(input, absl::MakeSpan(reinterpret_cast<std::byte*>(request.data()), kHeaderBytes));
    }
    receive(request, input.Bool());
  }
}

}  // namespace
}  // namespace stagefs::fuse

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::fuse::Fuzz({data, size});
  return 0;
}
