// stagefs direct access for C++20: the C interface of dsa.h with handles that end themselves. Header-only.
//
//   auto connection = stagefs::Connection::Open("/srv/image");
//   if (!connection) return connection.error();
//   auto file = connection->OpenFile("/data", O_RDWR);
//
// No exceptions: what can fail returns a Result, or a std::error_code; stagefs::LastError() has the text. Handles are
// moved, not copied; a handle ends what it stands for when it goes, which has to be before its connection does.
// Everything else (order, durability, threads) is as dsa.h says.

#ifndef STAGEFS_DSA_HPP_
#define STAGEFS_DSA_HPP_

#include <stagefs/dsa.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

namespace stagefs {

inline const char* LastError() { return dsa_error(); }

// A negative errno of the C interface; 0 and counts are no error.
inline std::error_code ErrorOf(int status) {
  return status < 0 ? std::error_code(-status, std::generic_category()) : std::error_code();
}

// A T, or why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}              // NOLINT: converts
  Result(std::error_code error) : error_(std::move(error)) {}  // NOLINT: converts
  explicit operator bool() const { return value_.has_value(); }
  std::error_code error() const { return error_; }
  // If there is one.
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return *std::move(value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  std::optional<T> value_;
  std::error_code error_;
};

namespace internal {

// A handle of the C interface, ended by `End`.
template <typename Handle, auto End>
class Owner {
 public:
  Owner() = default;
  explicit Owner(Handle* handle) : handle_(handle) {}
  Owner(Owner&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owner& operator=(Owner&& other) noexcept {
    if (this != &other) {
      (void)Reset();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  ~Owner() { (void)Reset(); }
  // For the C interface. Null: moved away, or ended.
  Handle* get() const { return handle_; }

 protected:
  auto Reset() { return End(std::exchange(handle_, nullptr)); }

 private:
  Handle* handle_ = nullptr;
};

// Makes a T of what `make` puts into a handle.
template <typename T, typename Handle, typename Make>
Result<T> Made(Make make) {
  Handle* handle = nullptr;
  if (const int status = make(&handle); status < 0) return ErrorOf(status);
  return T(handle);
}

}  // namespace internal

class Mapping : public internal::Owner<dsa_mapping, dsa_unmap> {
 public:
  Mapping() = default;
  Mapping(dsa_mapping* handle, std::span<std::byte> bytes) : Owner(handle), bytes_(bytes) {}
  // What is mapped; gone with the mapping.
  std::span<std::byte> bytes() const { return bytes_; }
  // The LSN of the change.
  Result<uint64_t> Persist(uint64_t offset, size_t length, int flags = 0) {
    uint64_t lsn = 0;
    if (const int status = dsa_persist(get(), offset, length, flags, &lsn); status < 0) return ErrorOf(status);
    return lsn;
  }

 private:
  std::span<std::byte> bytes_;
};

class File : public internal::Owner<dsa_file, dsa_close> {
 public:
  using Owner::Owner;
  Result<struct dsa_stat> Stat() const {
    struct dsa_stat stat;
    if (const int status = dsa_stat(get(), &stat); status < 0) return ErrorOf(status);
    return stat;
  }
  Result<Mapping> Map(uint64_t offset, size_t length) {
    dsa_mapping* handle = nullptr;
    void* address = nullptr;
    if (const int status = dsa_map(get(), offset, length, &handle, &address); status < 0) return ErrorOf(status);
    return Mapping(handle, {static_cast<std::byte*>(address), length});
  }
  // What the destructor does, and whether it went well.
  std::error_code Close() { return ErrorOf(Reset()); }
};

class Memory : public internal::Owner<dsa_memory, dsa_deregister> {
 public:
  using Owner::Owner;
  std::error_code Deregister() { return ErrorOf(Reset()); }
};

class Queue : public internal::Owner<dsa_queue, dsa_destroy_queue> {
 public:
  using Owner::Owner;
  // How many were taken, from the first; std::errc::resource_unavailable_try_again: the queue is full.
  Result<size_t> Post(std::span<const dsa_work> works) {
    const int count = dsa_post(get(), works.data(), static_cast<int>(works.size()));
    if (count < 0) return ErrorOf(count);
    return static_cast<size_t>(count);
  }
  // The completions that there were, in the front of `room`.
  Result<std::span<dsa_completion>> Poll(std::span<dsa_completion> room) {
    const int count = dsa_poll(get(), room.data(), static_cast<int>(room.size()));
    if (count < 0) return ErrorOf(count);
    return room.first(static_cast<size_t>(count));
  }
  // Whether there is something to poll. `timeout_ms`: negative for no limit.
  Result<bool> Wait(int timeout_ms = -1) {
    const int ready = dsa_wait(get(), timeout_ms);
    if (ready < 0) return ErrorOf(ready);
    return ready > 0;
  }
  int descriptor() const { return dsa_queue_fd(get()); }
  // Whether there is something to poll already; if not, the descriptor will tell.
  Result<bool> Arm() {
    const int ready = dsa_arm(get());
    if (ready < 0) return ErrorOf(ready);
    return ready > 0;
  }
};

class Connection : public internal::Owner<dsa_connection, dsa_disconnect> {
 public:
  using Owner::Owner;
  static Result<Connection> Open(const std::string& address, const dsa_options* options = nullptr) {
    return internal::Made<Connection, dsa_connection>(
        [&](dsa_connection** handle) { return dsa_connect(address.c_str(), options, handle); });
  }
  const char* provider() const { return dsa_provider(get()); }
  Result<File> OpenFile(const std::string& path, int flags, mode_t mode = 0) {
    return internal::Made<File, dsa_file>(
        [&](dsa_file** handle) { return dsa_open(get(), path.c_str(), flags, mode, handle); });
  }
  // `bytes` stay registered, and in place, as long as the Memory.
  Result<Memory> Register(std::span<std::byte> bytes, int access) {
    return internal::Made<Memory, dsa_memory>([&](dsa_memory** handle) {
      return dsa_register(get(), bytes.data(), bytes.size(), access, handle);
    });
  }
  Result<Queue> CreateQueue(uint32_t depth) {
    return internal::Made<Queue, dsa_queue>(
        [&](dsa_queue** handle) { return dsa_create_queue(get(), depth, handle); });
  }
};

}  // namespace stagefs

#endif  // STAGEFS_DSA_HPP_
