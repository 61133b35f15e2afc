#include "fs/fuse/uring_transport.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "sal/status_macros.h"

namespace stagefs::fuse {
namespace {

absl::StatusOr<std::vector<uint16_t>> ReadCpuList(const char* name) {
  std::ifstream file(absl::StrCat("/sys/devices/system/cpu/", name));
  std::string text;
  std::getline(file, text);
  return ParseCpuList(text);
}

}  // namespace

absl::StatusOr<std::vector<uint16_t>> ParseCpuList(absl::string_view text) {
  std::vector<uint16_t> cpus;
  for (const absl::string_view range : absl::StrSplit(absl::StripTrailingAsciiWhitespace(text), ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(range, '-');
    uint32_t first = 0, last = 0;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) || !absl::SimpleAtoi(ends.back(), &last) ||
        last < first || last > UINT16_MAX || (!cpus.empty() && first <= cpus.back())) {
      return absl::InvalidArgumentError(absl::StrCat("not a list of CPUs: \"", text, "\""));
    }
    for (uint32_t cpu = first; cpu <= last; ++cpu) cpus.push_back(static_cast<uint16_t>(cpu));
  }
  return cpus;
}

unsigned UringTransport::DepthOf(size_t online) {
  return std::clamp<unsigned>(kEntries / static_cast<unsigned>(online), 2, kMaxDepth);
}

absl::StatusOr<std::unique_ptr<UringTransport>> UringTransport::Create(size_t payload_bytes, Dispatch dispatch,
                                                                       std::function<void(absl::string_view)> log) {
  ASSIGN_OR_RETURN(const std::vector<uint16_t> possible, ReadCpuList("possible"));
  ASSIGN_OR_RETURN(const std::vector<uint16_t> online, ReadCpuList("online"));
  const unsigned depth = DepthOf(online.size());
  std::unique_ptr<UringTransport> transport(new UringTransport(std::move(dispatch), std::move(log)));
  // As the kernel counts them: as many queues as there are possible CPUs, from 0.
  for (uint16_t cpu = 0; cpu < possible.size(); ++cpu) {
    // A CPU that is not there now gets one entry: it may come, and must not find its queue missing.
    const bool is_online = std::binary_search(online.begin(), online.end(), cpu);
    ASSIGN_OR_RETURN(std::unique_ptr<UringQueue> queue,
                     UringQueue::Create(cpu, is_online ? depth : 1, payload_bytes, transport->handlers_));
    transport->queues_.push_back(std::move(queue));
  }
  return transport;
}

UringTransport::UringTransport(Dispatch dispatch, std::function<void(absl::string_view)> log)
    : handlers_{.here = std::move(dispatch), .elsewhere = {}, .log = std::move(log)} {
  handlers_.elsewhere = [this](RequestPort& port, absl::Span<std::byte> request) {
    other_threads_->Post([this, &port, request] { handlers_.here(port, request); });
  };
}

absl::Status UringTransport::Register(int device_fd) {
  other_threads_.emplace(std::clamp<size_t>(std::thread::hardware_concurrency(), 2, 8));
  absl::Status status;
  for (const std::unique_ptr<UringQueue>& queue : queues_) status.Update(queue->Start(device_fd));
  return status;
}

void UringTransport::Join() {
  for (const std::unique_ptr<UringQueue>& queue : queues_) queue->Join();
  other_threads_.reset();
}

}  // namespace stagefs::fuse
