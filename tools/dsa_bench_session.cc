#include "tools/dsa_bench_session.h"

#include <errno.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"
#include "tools/bench_meter.h"

namespace stagefs::tools {
namespace {

constexpr mode_t kMode = 0600;
constexpr uint64_t kFillDepth = 8;
constexpr uint64_t kAtomicBytes = 8;
constexpr int64_t kHungNs = 30'000'000'000;
constexpr int kSleepMs = 1000;

absl::Status Failed(absl::string_view what, int status) {
  return absl::ErrnoToStatus(-status, absl::StrCat(what, ": ", dsa_error()));
}

// Neither zeros nor the same in every block.
void FillWithNoise(std::vector<char>* bytes) {
  std::mt19937_64 random(1);
  std::generate(bytes->begin(), bytes->end(), [&] { return static_cast<char>(random()); });
}

}  // namespace

// One case on one queue: keeps `depth` operations under way until its time is over, then waits for the rest.
class DsaBenchSession::Run {
 public:
  Run(DsaBenchSession& session, const DsaCase& work, uint64_t span_bytes)
      : session_(session), case_(work), span_bytes_(span_bytes), began_ns_(work.depth) {
    for (uint64_t slot = 0; slot < work.depth; ++slot) free_slots_.push_back(slot);
  }
  ~Run() { dsa_destroy_queue(queue_); }

  absl::Status Start() {
    const int status = dsa_create_queue(session_.connection_, case_.depth * case_.works(), &queue_);
    return status < 0 ? Failed("a queue", status) : absl::OkStatus();
  }

  absl::StatusOr<DsaBenchResult> ForNs(int64_t duration_ns) {
    const int64_t start_ns = SteadyNowNs();
    now_ns_ = heard_ns_ = start_ns;
    while (now_ns_ - start_ns < duration_ns) RETURN_IF_ERROR(Step(true));
    while (free_slots_.size() < case_.depth) RETURN_IF_ERROR(Step(false));
    result_.busy_ns = now_ns_ - start_ns;
    return std::move(result_);
  }

  // The whole of [begin, span), in order, once.
  absl::Status Through(uint64_t begin) {
    in_order_ = true;
    next_in_order_ = begin;
    heard_ns_ = SteadyNowNs();
    while (next_in_order_ < span_bytes_) RETURN_IF_ERROR(Step(true));
    while (free_slots_.size() < case_.depth) RETURN_IF_ERROR(Step(false));
    return absl::OkStatus();
  }

 private:
  absl::Status Step(bool more) {
    if (more && !free_slots_.empty()) RETURN_IF_ERROR(Post());
    return Poll();
  }

  absl::Status Post() {
    now_ns_ = SteadyNowNs();
    works_.clear();
    for (; !free_slots_.empty(); free_slots_.pop_back()) {
      if (in_order_ && next_in_order_ >= span_bytes_) break;
      began_ns_[free_slots_.back()] = now_ns_;
      Add(free_slots_.back());
    }
    for (size_t posted = 0; posted < works_.size();) {
      const int status = dsa_post(queue_, &works_[posted], static_cast<int>(works_.size() - posted));
      if (status < 0 && status != -EAGAIN) return Failed("posting", status);
      if (status > 0) posted += status;
      if (posted < works_.size()) RETURN_IF_ERROR(Poll());  // too much on its way: what has arrived makes room
    }
    return absl::OkStatus();
  }

  // The works of one operation. The last one is signaled.
  void Add(uint64_t slot) {
    switch (case_.operation) {
      case DsaOperation::kRead: works_.push_back(Transfer(DSA_READ, slot, 0)); break;
      case DsaOperation::kWrite: works_.push_back(Transfer(DSA_WRITE, slot, 0)); break;
      case DsaOperation::kCompareSwap: works_.push_back(Atomic(DSA_COMPARE_SWAP)); break;
      case DsaOperation::kFetchAdd: works_.push_back(Atomic(DSA_FETCH_ADD)); break;
      case DsaOperation::kFlush: works_.push_back(Bare(DSA_FLUSH)); break;
      case DsaOperation::kGroup:
        works_.push_back(Bare(DSA_BEGIN));
        for (uint64_t i = 0; i < kGroupWrites; ++i) works_.push_back(Transfer(DSA_WRITE, slot, i));
        works_.push_back(Bare(DSA_COMMIT));
        break;
    }
    works_.back().user_data = slot;
    works_.back().flags = DSA_SIGNALED | (case_.durable ? DSA_DURABLE : 0);
  }

  static dsa_work Bare(uint32_t opcode) {
    dsa_work work = {};
    work.opcode = opcode;
    return work;
  }

  dsa_work Transfer(uint32_t opcode, uint64_t slot, uint64_t index) {
    const uint64_t buffers = case_.operation == DsaOperation::kGroup ? kGroupWrites : 1;
    dsa_work work = Bare(opcode);
    work.file = session_.file_;
    work.offset = in_order_ ? next_in_order_ : RandomPlace(case_.size_bytes);
    work.buffer = session_.bytes_.data() + (slot * buffers + index) * case_.size_bytes;
    work.length = std::min(case_.size_bytes, span_bytes_ - work.offset);
    work.memory = session_.memory_;
    if (in_order_) next_in_order_ += case_.size_bytes;
    return work;
  }

  // Compare-and-swaps count up at one place, so that alone each finds what it expects.
  dsa_work Atomic(uint32_t opcode) {
    dsa_work work = Bare(opcode);
    work.file = session_.file_;
    work.offset = opcode == DSA_FETCH_ADD ? RandomPlace(kAtomicBytes) : 0;
    work.operand = opcode == DSA_FETCH_ADD ? 1 : expected_ + 1;
    work.expected = expected_;
    return work;
  }

  // A multiple of `unit`, with room for one behind it.
  uint64_t RandomPlace(uint64_t unit) { return random_() % (span_bytes_ / unit) * unit; }

  absl::Status Poll() {
    std::array<dsa_completion, 128> completions;
    const int count = dsa_poll(queue_, completions.data(), completions.size());
    if (count < 0) return Failed("polling", count);
    now_ns_ = SteadyNowNs();
    for (int i = 0; i < count; ++i) RETURN_IF_ERROR(Take(completions[i]));
    if (count > 0) heard_ns_ = now_ns_;
    if (now_ns_ - heard_ns_ > kHungNs) return absl::DeadlineExceededError("no completion for half a minute");
    // An error of the queue shows in the next dsa_poll().
    if (count == 0 && session_.settings_.sleep) dsa_wait(queue_, kSleepMs);
    return absl::OkStatus();
  }

  absl::Status Take(const dsa_completion& completion) {
    if (completion.status < 0) return absl::ErrnoToStatus(-completion.status, case_.Name());
    if (completion.user_data >= began_ns_.size()) return absl::InternalError("a completion of work never posted");
    result_.latencies.Add(now_ns_ - began_ns_[completion.user_data]);
    ++result_.operations;
    expected_ = completion.value == expected_ ? expected_ + 1 : completion.value;
    free_slots_.push_back(completion.user_data);
    return absl::OkStatus();
  }

  DsaBenchSession& session_;
  const DsaCase case_;
  const uint64_t span_bytes_;
  dsa_queue* queue_ = nullptr;
  std::vector<int64_t> began_ns_;  // by slot
  std::vector<uint64_t> free_slots_;
  std::vector<dsa_work> works_;
  bool in_order_ = false;
  uint64_t next_in_order_ = 0;
  uint64_t expected_ = 0;
  int64_t now_ns_ = 0;
  int64_t heard_ns_ = 0;  // when the last completion came
  std::mt19937_64 random_{2};
  DsaBenchResult result_;
};

absl::StatusOr<std::unique_ptr<DsaBenchSession>> DsaBenchSession::Open(const std::string& address,
                                                                       const std::string& path,
                                                                       const DsaBenchSettings& settings) {
  std::unique_ptr<DsaBenchSession> session(new DsaBenchSession(settings));
  RETURN_IF_ERROR(session->Connect(address, path));
  return session;
}

DsaBenchSession::~DsaBenchSession() {
  dsa_deregister(memory_);
  dsa_close(file_);
  dsa_disconnect(connection_);
}

std::string DsaBenchSession::provider() const { return dsa_provider(connection_); }

absl::Status DsaBenchSession::Connect(const std::string& address, const std::string& path) {
  dsa_options options = {};
  if (!settings_.provider.empty()) options.provider = settings_.provider.c_str();
  if (!settings_.key_file.empty()) options.key_file = settings_.key_file.c_str();
  int status = dsa_connect(address.c_str(), &options, &connection_);
  if (status < 0) return Failed(address, status);
  path_ = path;
  status = dsa_open(connection_, path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, kMode, &file_);
  return status < 0 ? Failed(path_, status) : absl::OkStatus();
}

// Memory grows with the case that needs most.
absl::Status DsaBenchSession::Register(size_t size_bytes) {
  if (bytes_.size() >= size_bytes) return absl::OkStatus();
  dsa_deregister(std::exchange(memory_, nullptr));
  bytes_.resize(size_bytes);
  FillWithNoise(&bytes_);
  const int status =
      dsa_register(connection_, bytes_.data(), bytes_.size(), DSA_LOCAL_READ | DSA_LOCAL_WRITE, &memory_);
  return status < 0 ? Failed("memory", status) : absl::OkStatus();
}

absl::Status DsaBenchSession::Fill(uint64_t span_bytes) {
  while (filled_bytes_ < span_bytes) {
    const bool small = filled_bytes_ < kSmallSpanBytes;
    const uint64_t end = small ? std::min(span_bytes, kSmallSpanBytes) : span_bytes;
    const DsaCase writes = {DsaOperation::kWrite, small ? kSmallBytes : 1 << 20, kFillDepth, false};
    RETURN_IF_ERROR(Register(writes.size_bytes * writes.depth));
    Run fill(*this, writes, end);
    RETURN_IF_ERROR(fill.Start());
    RETURN_IF_ERROR(fill.Through(filled_bytes_));
    filled_bytes_ = end;
  }
  const DsaCase flushes = {DsaOperation::kFlush, 0, 1, false};
  Run flush(*this, flushes, 0);
  RETURN_IF_ERROR(flush.Start());
  return flush.ForNs(1).status();
}

absl::StatusOr<DsaBenchResult> DsaBenchSession::Measure(const DsaCase& work) {
  RETURN_IF_ERROR(Fill(SpanOf(settings_, work)));
  RETURN_IF_ERROR(Register(work.size_bytes * work.depth * work.works()));
  Run run(*this, work, SpanOf(settings_, work));
  RETURN_IF_ERROR(run.Start());
  return run.ForNs(settings_.case_ns);
}

absl::Status DsaBenchSession::Close() {
  dsa_file* emptied = nullptr;
  const int status = dsa_open(connection_, path_.c_str(), O_WRONLY | O_TRUNC, 0, &emptied);
  if (status < 0) return Failed(path_, status);
  dsa_close(emptied);
  return absl::OkStatus();
}

}  // namespace stagefs::tools
