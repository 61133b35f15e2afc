#include "sal/fault_store.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "sal/check.h"
#include "sal/open_store.h"
#include "sal/request_check.h"
#include "sal/status_macros.h"

namespace stagefs::sal {

namespace {

constexpr size_t kCarrierBytes = 4096;

bool Touches(const Fault& fault, const Request& request) {
  if (request.op == Request::Op::kFlush) return true;
  const uint64_t request_end = request.offset_bytes + request.length_bytes;
  const uint64_t fault_end =
      fault.length_bytes > UINT64_MAX - fault.offset_bytes ? UINT64_MAX : fault.offset_bytes + fault.length_bytes;
  return request.offset_bytes < fault_end && fault.offset_bytes < request_end;
}

absl::Status ErrorFor(const Request& request, absl::string_view name) {
  const std::string message = absl::StrCat(name, ": ", Describe(request), ": Input/output error (injected)");
  return request.op == Request::Op::kRead ? absl::DataLossError(message) : absl::UnavailableError(message);
}

// The first `length` bytes of `buffers`.
absl::InlinedVector<iovec, 2> Head(const absl::InlinedVector<iovec, 2>& buffers, uint64_t length) {
  absl::InlinedVector<iovec, 2> head;
  for (const iovec& buffer : buffers) {
    if (length == 0) break;
    head.push_back(iovec{buffer.iov_base, std::min<uint64_t>(buffer.iov_len, length)});
    length -= head.back().iov_len;
  }
  return head;
}

}  // namespace

// A request of the store's own, sent in place of a caller's. Lives until it completes.
struct FaultStore::Detour {
  Request request;
  alignas(kCarrierBytes) std::array<std::byte, kCarrierBytes> memory;
};

FaultStore::FaultStore(std::unique_ptr<BlockStore> inner, Environment* environment)
    : owned_(std::move(inner)), inner_(*owned_), environment_(environment) {}

FaultStore::FaultStore(BlockStore& inner, Environment* environment) : inner_(inner), environment_(environment) {}

void FaultStore::Add(const Fault& fault) {
  STAGEFS_CHECK(fault.action != Fault::Action::kDelay || environment_ != nullptr);
  MutexLock lock(&mutex_);
  faults_.push_back(fault);
}

void FaultStore::Clear() {
  MutexLock lock(&mutex_);
  faults_.clear();
}

uint64_t FaultStore::hits() const {
  MutexLock lock(&mutex_);
  return hits_;
}

uint64_t FaultStore::request_count() const {
  MutexLock lock(&mutex_);
  return request_count_;
}

std::optional<Fault> FaultStore::Match(const Request& request) {
  ++request_count_;
  for (Fault& fault : faults_) {
    if (fault.op.has_value() && *fault.op != request.op) continue;
    if (fault.request_number != 0 && fault.request_number != request_count_) continue;
    if (fault.count == 0 || !Touches(fault, request)) continue;
    if (fault.after > 0) {
      --fault.after;
      continue;
    }
    --fault.count;
    ++hits_;
    return fault;
  }
  return std::nullopt;
}

void FaultStore::Submit(absl::Span<Request* const> requests) {
  std::vector<Request*> passing;
  std::vector<std::pair<Request*, Fault>> faulty;
  {
    MutexLock lock(&mutex_);
    for (Request* request : requests) {
      if (std::optional<Fault> fault = Match(*request)) {
        faulty.emplace_back(request, *fault);
      } else {
        passing.push_back(request);
      }
    }
  }
  if (!passing.empty()) inner_.Submit(passing);
  for (const auto& [request, fault] : faulty) Divert(request, fault);
}

void FaultStore::Divert(Request* request, const Fault& fault) {
  if (fault.action == Fault::Action::kDelay) {
    environment_->PostAfter(fault.delay_ns, [this, request] { inner_.Submit(request); });
    return;
  }
  Detour* detour = new Detour;
  Request& sent = detour->request;
  sent.op = request->op;
  sent.fua = request->fua;
  sent.offset_bytes = request->offset_bytes;
  sent.length_bytes = request->length_bytes;
  sent.buffers = request->buffers;

  const Geometry& geometry = inner_.geometry();
  const bool transfer = request->op == Request::Op::kRead || request->op == Request::Op::kWrite;
  absl::Status outcome;
  bool do_something = false;
  switch (fault.action) {
    case Fault::Action::kFail:
      outcome = ErrorFor(*request, name());
      break;
    case Fault::Action::kLose:
    case Fault::Action::kDelay:
      break;
    case Fault::Action::kTear:
      sent.length_bytes = request->length_bytes / 2 / geometry.block_size_bytes * geometry.block_size_bytes;
      sent.buffers = Head(request->buffers, sent.length_bytes);
      do_something = request->op == Request::Op::kWrite && sent.length_bytes > 0;
      break;
    case Fault::Action::kMisdirect:
      if (request->offset_bytes + 2 * request->length_bytes <= geometry.size_bytes) {
        sent.offset_bytes += request->length_bytes;
        do_something = transfer;
      } else if (request->offset_bytes >= request->length_bytes) {
        sent.offset_bytes -= request->length_bytes;
        do_something = transfer;
      }
      break;
    case Fault::Action::kFlip:
      do_something = true;
      break;
  }
  if (!do_something) {
    // A harmless read, so that the request completes when and where the inner store's requests do.
    sent.op = Request::Op::kRead;
    sent.fua = false;
    sent.offset_bytes = 0;
    sent.length_bytes = kCarrierBytes;
    sent.buffers = {iovec{detour->memory.data(), kCarrierBytes}};
  }
  const bool flip = fault.action == Fault::Action::kFlip && request->op == Request::Op::kRead;
  sent.done = [request, detour, outcome, do_something, flip](absl::Status status) {
    delete detour;
    if (flip && status.ok()) *static_cast<std::byte*>(request->buffers[0].iov_base) ^= std::byte{0x10};
    Complete(request, do_something ? std::move(status) : outcome);
  };
  inner_.Submit(&sent);
}

absl::StatusOr<Fault> ParseFault(absl::string_view spec) {
  const auto invalid = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", spec, "\" is not a fault: ", why, "; write OP-ACTION[@OFFSET+LENGTH][-after=N][-count=N], where OP is ",
        "read, write, flush, discard, zero or any, and ACTION is eio, lose, tear, misdirect or flip"));
  };
  static constexpr std::pair<absl::string_view, Request::Op> kOps[] = {
      {"read", Request::Op::kRead},   {"write", Request::Op::kWrite},     {"flush", Request::Op::kFlush},
      {"zero", Request::Op::kZero},   {"discard", Request::Op::kDiscard},
  };
  static constexpr std::pair<absl::string_view, Fault::Action> kActions[] = {
      {"eio", Fault::Action::kFail},
      {"lose", Fault::Action::kLose},
      {"tear", Fault::Action::kTear},
      {"misdirect", Fault::Action::kMisdirect},
      {"flip", Fault::Action::kFlip},
  };
  // Takes what stands before the next of `stops` off the front of `rest`.
  absl::string_view rest = spec;
  const auto take = [&rest](absl::string_view stops) {
    const absl::string_view word = rest.substr(0, rest.find_first_of(stops));
    rest.remove_prefix(word.size());
    return word;
  };

  Fault fault;
  const absl::string_view op = take("-");
  const auto* known_op = std::find_if(std::begin(kOps), std::end(kOps), [&](const auto& o) { return o.first == op; });
  if (known_op != std::end(kOps)) {
    fault.op = known_op->second;
  } else if (op != "any") {
    return invalid(absl::StrCat("unknown operation \"", op, "\""));
  }
  if (rest.empty()) return invalid("it has no action");
  rest.remove_prefix(1);
  const absl::string_view action = take("@-");
  const auto* known_action =
      std::find_if(std::begin(kActions), std::end(kActions), [&](const auto& a) { return a.first == action; });
  if (known_action == std::end(kActions)) return invalid(absl::StrCat("unknown action \"", action, "\""));
  fault.action = known_action->second;

  if (!rest.empty() && rest[0] == '@') {
    rest.remove_prefix(1);
    const absl::string_view range = take("-");
    const size_t plus = range.find('+');
    if (plus == absl::string_view::npos) return invalid("a range is @OFFSET+LENGTH");
    ASSIGN_OR_RETURN(fault.offset_bytes, ParseSize(range.substr(0, plus)));
    ASSIGN_OR_RETURN(fault.length_bytes, ParseSize(range.substr(plus + 1)));
  }
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const absl::string_view setting = take("-");
    const size_t equals = setting.find('=');
    const absl::string_view key = setting.substr(0, equals);
    if (equals == absl::string_view::npos || (key != "after" && key != "count")) {
      return invalid(absl::StrCat("unknown setting \"", setting, "\""));
    }
    ASSIGN_OR_RETURN(const uint64_t value, ParseSize(setting.substr(equals + 1)));
    (key == "after" ? fault.after : fault.count) = value;
  }
  return fault;
}

}  // namespace stagefs::sal
